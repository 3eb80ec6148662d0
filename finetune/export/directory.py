"""A merged model as a directory that every library loads, and the proof that it reads back as what was merged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from finetune.errors import ModelError
from finetune.export.parity import log_probabilities

SHARD = "5GB"
"""Largest file of weights: what the hub and most file systems take without ado."""

AGAIN = "this is a fault of finetune or of a library version it was not tried with; please report it"


def save_directory(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stops: Sequence[int], folder: Path
) -> None:
    """Writes weights, configuration, tokenizer, template and stop tokens. Raises OSError."""
    model.config.use_cache = True
    model.generation_config = GenerationConfig.from_dict(
        {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": list(stops) if len(stops) > 1 else stops[0] if stops else None,
            "pad_token_id": tokenizer.pad_token_id,
        }
    )
    model.save_pretrained(folder, max_shard_size=SHARD)
    tokenizer.save_pretrained(folder)


def prove_directory(
    folder: Path,
    expected: Sequence[torch.Tensor],
    texts: Sequence[Sequence[int]],
    rendered: Sequence[str],
    stops: Sequence[int],
    *,
    device: torch.device,
    dtype: torch.dtype,
    trust_remote_code: bool,
    attention: str,
) -> None:
    """Raises ModelError where the directory, loaded anew, gives other logits for `texts`, other tokens for `rendered`,
    or stops at other tokens."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, trust_remote_code=trust_remote_code, attn_implementation=attention, device_map={"": device}
    )
    found = log_probabilities(model, texts)
    if not all(torch.equal(one, other) for one, other in zip(expected, found, strict=True)):
        raise ModelError(f"{folder}: the merged model does not read back as it was merged", AGAIN)
    known = model.generation_config.eos_token_id
    if sorted(known if isinstance(known, list) else [known] if known is not None else []) != sorted(stops):
        raise ModelError(f"{folder}: stops at {known}, not at {list(stops)}", AGAIN)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text, ids in zip(rendered, texts, strict=True):
        if tokenizer(text, add_special_tokens=False)["input_ids"] != list(ids):
            raise ModelError(f"{folder}: its tokenizer reads {text[:60]!r} as other tokens", AGAIN)
