"""A tokenizer in a GGUF file: its tokens, merges, special tokens, and how it cuts text before it merges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf

from finetune.errors import ModelError

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {WORDS + r"\p{N}{1,3}" + REST: "llama-bpe", WORDS + r"\p{N}" + REST: "qwen2"}
"""Patterns that text is cut by (Llama 3's and Qwen 2's differ in how many digits stay together), and llama.cpp's names
for them."""


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path, vocab_size: int) -> None:
    """Adds the tokenizer of `folder`. Raises ModelError for one that llama.cpp has no name for."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    sentencepiece = content["model"]["type"] == "BPE" and content["model"].get("byte_fallback", False)
    if sentencepiece:
        _add_sentencepiece(writer, folder, vocab_size)
    else:
        _add_bpe(writer, folder, content, vocab_size)
    # Merges, the special tokens' numbers, whether BOS is added, and the chat template.
    gguf.SpecialVocab(folder, load_merges=not sentencepiece, n_vocab=vocab_size).add_to_gguf(writer, quiet=True)


def _add_bpe(writer: gguf.GGUFWriter, folder: Path, content: dict[str, Any], vocab_size: int) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_name_of(content, folder))
    added = {token["id"]: token for token in content["added_tokens"]}
    words = {number: word for word, number in content["model"]["vocab"].items()}
    tokens, types = [], []
    for number in range(vocab_size):
        token = added.get(number)
        if token:
            tokens.append(token["content"])
            types.append(gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED)
        else:
            tokens.append(words.get(number, f"[PAD{number}]"))
            types.append(gguf.TokenType.NORMAL if number in words else gguf.TokenType.UNUSED)
    writer.add_token_list(tokens)
    writer.add_token_types(types)


def _add_sentencepiece(writer: gguf.GGUFWriter, folder: Path, vocab_size: int) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    listed = list(gguf.LlamaHfVocab(folder).all_tokens())
    listed += [(f"[PAD{number}]".encode(), -1000.0, gguf.TokenType.UNUSED) for number in range(len(listed), vocab_size)]
    writer.add_token_list([text for text, _, _ in listed])
    writer.add_token_scores([score for _, score, _ in listed])
    writer.add_token_types([kind for _, _, kind in listed])


def _name_of(content: dict[str, Any], folder: Path) -> str:
    """llama.cpp's name for the way a tokenizer cuts text before it merges."""
    steps = content.get("pre_tokenizer") or {}
    listed = steps.get("pretokenizers", [steps])
    kinds = [step.get("type") for step in listed]
    if kinds == ["ByteLevel"] and listed[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and listed[0].get("individual_digits"):
        return "smollm"
    if kinds[:1] == ["Split"] and (name := SPLITS.get(listed[0].get("pattern", {}).get("Regex"))):
        return name
    raise ModelError(
        f"{folder}: its tokenizer cuts text in a way that has no name here ({', '.join(map(str, kinds))})",
        "llama.cpp's own convert_hf_to_gguf.py knows more: give it the merged directory",
    )
