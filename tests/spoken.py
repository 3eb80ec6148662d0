"""Tiny models whose greedy text depends on every weight, and what transformers and llama.cpp say with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from repo import REPO
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from finetune.export import llama_cpp, write_gguf
from finetune.model import answer

LONG = 20
PROMPTS = (
    "Licensed under the Apache License, Version 2.0: you may not use this file except in compliance with it.",
    "the copyright owner or entity authorized by the copyright owner that is granting the License",
    "You 'must' cause any modified files to carry 12345 prominent notices;\n\n  stating that  you changed them",
)
ASCII = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]


def text() -> list[str]:
    """What tokenizers are trained on."""
    numbers = [f"{number} {number + 1000}" for number in range(120, 340)]
    return (REPO / "LICENSE").read_text(encoding="utf-8").splitlines() + numbers


def byte_level(*steps: Any, size: int = 384, regex: bool = True) -> Tokenizer:
    """Byte-level BPE that cuts text by `steps` first, and then by GPT-2's `regex`. Of bytes it has ASCII's alone, as a
    model with random weights would say halves of characters."""
    tokenizer = Tokenizer(models.BPE())
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, last]) if steps else last
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|end|>", "<|pad|>"], initial_alphabet=ASCII, show_progress=False
    )
    tokenizer.train_from_iterator(text(), trainer)
    return tokenizer


def split(pattern: str) -> Any:
    """The step of a tokenizer that cuts text by a regular expression."""
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def fast(tokenizer: Tokenizer, **tokens: Any) -> PreTrainedTokenizerFast:
    """The same for transformers."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **({"eos_token": "<|end|>", "pad_token": "<|pad|>"} | tokens)
    )


def model(fields: dict[str, Any], tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> PreTrainedModel:
    """With weights in which each matters: also norms and biases are drawn, and nothing is nearly a tie."""
    torch.manual_seed(seed)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = AutoConfig.for_model(**(fields | ends | sizes))
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in made.parameters():
            spread = 0.3 if parameter.dim() < 2 else 1.5 / parameter.shape[1] ** 0.5
            parameter.add_(torch.randn_like(parameter) * spread)
    return made


def said(
    folder: Path, made: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: tuple[str, ...] = PROMPTS
) -> tuple[list[str], list[int]]:
    """Writes `folder` and a GGUF file of it; returns transformers' greedy text and the prompts' lengths in tokens."""
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_gguf(folder, folder / "model.gguf", "tiny")
    texts = [answer(made, tokenizer, prompt, max_new_tokens=LONG) for prompt in prompts]
    return texts, [len(tokenizer(prompt)["input_ids"]) for prompt in prompts]


def llama_cpp_said(
    package: str, folder: Path, prompts: tuple[str, ...] = PROMPTS, adapter: Path | None = None
) -> tuple[list[str], list[int]]:
    """The same of llama.cpp."""
    found = llama_cpp.answers(package, folder / "model.gguf", prompts, LONG, chat=False, adapter=adapter)
    return [one.text.strip() for one in found], [one.prompt_tokens for one in found]
