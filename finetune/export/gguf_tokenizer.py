"""A tokenizer in a GGUF file: its tokens, merges, special tokens, and how it cuts text before it merges."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
from tokenizers import Tokenizer

from finetune.errors import ModelError

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {WORDS + r"\p{N}{1,3}" + REST: "llama-bpe", WORDS + r"\p{N}" + REST: "qwen2"}
"""Patterns that text is cut by (Llama 3's and Qwen 2's differ in how many digits stay together), and llama.cpp's names
for them."""


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path, vocab_size: int, stops: Sequence[int]) -> None:
    """Adds the tokenizer of `folder`, and the tokens `stops` that end a text. Raises ModelError for a tokenizer that
    llama.cpp has no name for."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    sentencepiece = content["model"]["type"] == "BPE" and content["model"].get("byte_fallback", False)
    # Merges, the special tokens' numbers, whether BOS is added, and the chat template.
    special = gguf.SpecialVocab(folder, load_merges=not sentencepiece, n_vocab=vocab_size)
    if sentencepiece:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(content["model"], vocab_size))
        writer.add_add_space_prefix(_adds_space(content, chat=special.chat_template is not None))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_name_of(content, folder))
    tokens, types = _tokens(content, vocab_size)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    # The tokenizer's own stop token is EOS; what else the model stops at has these two places.
    others = [stop for stop in stops if stop != special.special_token_ids.get("eos")]
    special.special_token_ids |= dict(zip(("eot", "eom"), others, strict=False))
    # Said outright: without it llama.cpp adds BOS or not by the kind of tokenizer.
    first = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a").ids[0]
    special.add_special_token["bos"] = first == special.special_token_ids.get("bos")
    special.add_to_gguf(writer, quiet=True)


def _tokens(content: dict[str, Any], vocab_size: int) -> tuple[list[str], list[gguf.TokenType]]:
    """Every token's text and kind, by its number."""
    added = {token["id"]: token for token in content["added_tokens"]}
    words = {number: word for word, number in content["model"]["vocab"].items()}
    unknown = content["model"].get("unk_token")
    tokens, types = [], []
    for number in range(vocab_size):
        token, word = added.get(number), words.get(number, f"[PAD{number}]")
        tokens.append(token["content"] if token else word)
        if word == unknown and content["model"].get("byte_fallback"):
            types.append(gguf.TokenType.UNKNOWN)
        elif token:
            types.append(gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED)
        elif number not in words:
            types.append(gguf.TokenType.UNUSED)
        else:
            types.append(gguf.TokenType.BYTE if re.fullmatch("<0x[0-9A-F]{2}>", word) else gguf.TokenType.NORMAL)
    return tokens, types


def _scores(model: dict[str, Any], vocab_size: int) -> list[float]:
    """SentencePiece joins first what scores highest; the tokenizer's merges are in that order."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        ranks.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), rank)
    scores = [-1e6] * vocab_size
    for word, number in model["vocab"].items():
        if word in ranks:
            scores[number] = -float(ranks[word])
    return scores


def _adds_space(content: dict[str, Any], *, chat: bool) -> bool:
    """Whether text behind a special token is read as if a space came first. One scheme has it so only where a text
    begins, which in a conversation is a special token."""
    steps = content.get("normalizer") or {}
    if any(step.get("type") == "Prepend" for step in steps.get("normalizers", [steps])):
        return True
    steps = content.get("pre_tokenizer") or {}
    spaces = [step for step in steps.get("pretokenizers", [steps]) if step.get("type") == "Metaspace"]
    return bool(spaces) and spaces[0].get("prepend_scheme", "always") in ("always", "always" if chat else "first")


def _name_of(content: dict[str, Any], folder: Path) -> str:
    """llama.cpp's name for the way a tokenizer cuts text before it merges."""
    steps = content.get("pre_tokenizer") or {}
    listed = steps.get("pretokenizers", [steps])
    kinds = [step.get("type") for step in listed]
    if kinds == ["ByteLevel"] and listed[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and listed[0].get("individual_digits") and listed[1].get("use_regex", True):
        return "smollm"
    if kinds[:1] == ["Split"] and (name := SPLITS.get(listed[0].get("pattern", {}).get("Regex"))):
        return name
    raise ModelError(
        f"{folder}: its tokenizer cuts text in a way that has no name here ({', '.join(map(str, kinds))})",
        "llama.cpp's own convert_hf_to_gguf.py knows more: give it the merged directory",
    )
