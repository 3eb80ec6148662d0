"""The trace against reality: the same step on real CPU tensors takes, phase by phase, what it takes on meta tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import FAMILIES
from traced import BATCH, described, peaks

from finetune.model import build_model
from finetune.preflight.step import Batch
from finetune.preflight.trace import trace

torch.set_num_threads(1)  # the models are tiny: on a busy machine threads would only wait for each other

TOLERANCE = 0.002
"""Most come out to the byte; four bytes here and there are a number that CPU and meta tensors keep differently."""

PADDED, PACKED = Batch(2, 64, padded=True), Batch(2, 64, packed=True)
FUSED, KEPT = "training.loss_kernel=fused_linear", "training.gradient_checkpointing=false"
SOME = "training.gradient_checkpointing=1"
DENSE, HALF = "quantization.type=none", "quantization.compute_dtype=bfloat16"
SETTINGS = [[], [KEPT], [FUSED, DENSE], [KEPT, FUSED]]
"""Spread over the families."""

CASES = [
    *((family, SETTINGS[(index + turn) % 4], BATCH) for turn in (0, 1) for index, family in enumerate(FAMILIES)),
    *((family, [HALF], BATCH) for family in ("llama3", "gemma2", "mixtral", "gpt_oss")),  # under autocast
    ("llama3", [HALF, KEPT], BATCH),
    *(("llama3", [SOME, *keys], BATCH) for keys in ([], [FUSED], [HALF], ["lora.dropout=0.1"])),
    *((family, [SOME], BATCH) for family in ("gemma2", "olmo2", "mixtral")),
    ("qwen3", [HALF, FUSED], BATCH),
    ("llama3", [HALF, "training.autocast=none"], BATCH),
    *((family, [], PADDED) for family in ("mistral", "gemma2", "gemma3_text")),
    *((family, [], PACKED) for family in ("mistral", "gemma3_text", "gpt_oss")),
    ("qwen2", ["model.attention=eager"], BATCH),
    ("qwen2", ["model.attention=eager", KEPT], PADDED),
    ("qwen2", ["lora.dropout=0.1"], BATCH),
    ("qwen2", ["lora.dropout=0.1", KEPT], BATCH),
    ("llama2", ["lora.use_dora=true"], BATCH),
    ("llama2", ["lora.use_dora=true", KEPT, DENSE], BATCH),
    ("llama2", ["lora.use_rslora=true"], BATCH),
    ("olmo2", ["lora.dtype=bfloat16"], BATCH),
    ("olmo2", ["lora.dtype=bfloat16", HALF], BATCH),
    ("phi3", ["model.fp32_unquantized=true", HALF], BATCH),
    ("phi3", ["model.fp32_unquantized=true", HALF, "training.autocast=none"], BATCH),
    ("smollm2", ["training.optimizer=sgd"], BATCH),
    ("smollm2", ["training.gradient_accumulation_steps=1"], BATCH),
    ("smollm2", ["training.gradient_accumulation_steps=1", "training.optimizer=sgd"], Batch(1, 256)),
    ("smollm2", ["quantization.double_quant=false", "lora.r=64"], Batch(1, 8)),
]


def name(value: object) -> str | None:
    if isinstance(value, list):
        return " ".join(setting.split(".")[1] for setting in value) or "plain"
    if isinstance(value, Batch):
        return "padded" if value.padded else "packed" if value.packed else f"{value.rows}x{value.tokens}"
    return None


@pytest.mark.parametrize(("family", "settings", "batch"), CASES, ids=name)
def test_meta_tensors_take_what_real_ones_take(tmp_path: Path, family: str, settings: list[str], batch: Batch) -> None:
    spec = described(tmp_path, family, *settings, batch=batch)
    predicted, real = peaks(trace(spec, batch)), peaks(trace(spec, batch, model=build_model(spec)))
    assert predicted == pytest.approx(real, rel=TOLERANCE)
    assert set(real) >= {"load", "batch", "forward", "layer forward", "loss backward", "layer backward"}
