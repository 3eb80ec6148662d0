"""What gpu_suite.py measures: each line is configs/qlora_r16.yaml with another model and overrides."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from environment import REPO

CONFIG = REPO / "configs" / "qlora_r16.yaml"
SHIPPED = REPO / "finetune" / "spec" / "model_configs"
COMMON = ("model.weights=random", "data.eval_fraction=0.0", "data.format=text", "training.save_steps=null")
TINY = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 1024,
}  # fmt: skip


class Skipped(Exception):
    """A line that cannot be measured here, and why."""


@dataclass(frozen=True)
class Line:
    """One measurement: CONFIG with the shape of `model` and `overrides`, for `steps` updates.

    `sequence` (tokens) and `rows` (packs, where `packed`) are what its data must hold. `held_to` is how much of the
    card torch's allocator may take, None for all of it. `timeout` is in seconds.
    """

    name: str
    model: str
    sequence: int
    rows: int
    steps: int
    overrides: tuple[str, ...]
    packed: bool = False
    held_to: str | None = None
    timeout: int = 240

    @property
    def warmup(self) -> int:
        """Steps left out of the speed: kernels are chosen and memory is claimed in them."""
        return 3 if self.steps > 5 else 1

    def all_overrides(self, **paths: Path) -> list[str]:
        """Everything that differs from CONFIG, in the form of the command line."""
        found = [*COMMON, *self.overrides, f"training.max_steps={self.steps}"]
        return found + [f"{key.replace('__', '.')}={path}" for key, path in paths.items()]


QLORA_7B = Line(
    name="qlora_7b_20_steps",
    model="OLMo-2-1124-7B",
    sequence=2048,
    rows=20 * 16,
    steps=20,
    overrides=(),
    packed=True,
    held_to="24GiB",
    timeout=420,
)
"""The shipped plan for a 24-GB card as it stands, but for random weights and rows: the promise itself."""

GRID = """
Llama-3.1-8B          nf4  2048 1 ckpt  fused_linear sdpa  paged_adamw_8bit
Llama-3.1-8B          nf4  2048 1 ckpt  full_logits  sdpa  paged_adamw_8bit
Qwen2.5-7B-Instruct   nf4  2048 1 ckpt  fused_linear sdpa  adamw_torch
Mistral-7B            nf4  2048 4 ckpt  fused_linear eager paged_adamw_8bit
Mistral-7B            nf4  2048 1 whole fused_linear sdpa  adamw_8bit
Llama-3.2-1B          none 2048 4 whole full_logits  sdpa  adamw_torch
Llama-3.1-8B          none 2048 1 ckpt  fused_linear sdpa  adamw_torch
Qwen2.5-7B-Instruct   nf4  8192 1 ckpt  fused_linear sdpa  paged_adamw_8bit
Llama-3.2-1B          nf4   512 8 ckpt  full_logits  sdpa  adamw_8bit
Mistral-7B            nf4  2048 2 ckpt  fused_linear sdpa  paged_adamw_8bit packed
Llama-3.1-8B          nf4  8192 1 ckpt  full_logits  sdpa  adamw_torch
Mistral-7B            none 4096 2 ckpt  full_logits  sdpa  adamw_torch
Qwen2.5-7B-Instruct   nf4  1024 8 ckpt  full_logits  sdpa  paged_adamw_8bit
Llama-3.2-1B          nf4  4096 2 ckpt  fused_linear eager adamw_torch
Llama-3.1-8B          nf4   512 8 whole fused_linear sdpa  paged_adamw_8bit
Qwen2.5-7B-Instruct   nf4   512 1 ckpt  fused_linear sdpa  adamw_8bit
Mistral-7B            nf4  8192 2 ckpt  full_logits  sdpa  adamw_torch
Qwen2.5-7B-Instruct   none 1024 4 whole full_logits  sdpa  adamw_torch
Llama-3.1-8B          nf4  1024 2 ckpt  full_logits  eager adamw_8bit
Llama-3.2-1B          none 8192 1 ckpt  full_logits  sdpa  paged_adamw_8bit
Mistral-7B            nf4  1024 8 whole full_logits  sdpa  adamw_8bit
Qwen2.5-7B-Instruct   none 2048 2 ckpt  full_logits  eager paged_adamw_8bit
Llama-3.2-1B          nf4  2048 8 whole fused_linear sdpa  adamw_torch
Llama-3.1-8B          none 4096 4 ckpt  fused_linear sdpa  paged_adamw_8bit
Qwen2.5-7B-Instruct   nf4  4096 4 ckpt  fused_linear sdpa  adamw_8bit
Mistral-7B            none  512 8 whole fused_linear sdpa  adamw_8bit
Llama-3.2-1B          none  512 1 whole fused_linear eager adamw_8bit
Llama-3.1-8B          nf4  8192 4 ckpt  full_logits  sdpa  paged_adamw_8bit
Llama-3.1-8B          nf4  4096 2 ckpt  fused_linear sdpa  adamw_torch      packed
OLMo-2-1124-7B        nf4  2048 4 whole fused_linear sdpa  paged_adamw_8bit
"""
"""Model, quantisation, sequence, micro batch, activations (ckpt: one a layer is kept, whole: all are), loss kernel,
attention, optimiser. Three models of 7B and 8B, one of 1B, one more whose norms and heads differ; the values of each
column meet those of the others, the likeliest settings first."""


def lines() -> list[Line]:
    """All lines, first the most telling."""
    return [QLORA_7B, *(_grid_line(*row.split()) for row in GRID.strip().splitlines())]


def _grid_line(
    model: str, quantization: str, sequence: str, batch: str, kept: str, loss: str, attention: str, optimizer: str,
    packed: str = "",
) -> Line:  # fmt: skip
    steps = 3
    return Line(
        name="-".join(filter(None, [model.lower(), quantization, f"{batch}x{sequence}", kept, loss, attention,
                                    optimizer, packed])),
        model=model, sequence=int(sequence), rows=steps * int(batch), steps=steps, packed=bool(packed),
        overrides=(
            f"quantization.type={quantization}", f"data.max_length={sequence}", f"data.packing={_yaml(packed != '')}",
            f"training.micro_batch_size={batch}", "training.gradient_accumulation_steps=1",
            f"training.gradient_checkpointing={_yaml(kept == 'ckpt')}", f"training.loss_kernel={loss}",
            f"model.attention={attention}", f"training.optimizer={optimizer}", "hardware.memory=auto",
        ),
    )  # fmt: skip


def _yaml(value: bool) -> str:
    return str(value).lower()


def shrunk(line: Line) -> Line:
    """The same line for a processor: two steps on sequences a 32nd as long, in float32, with an optimiser it has."""
    sequence = line.sequence // 32
    return replace(
        line, sequence=sequence, rows=2 * line.rows // line.steps, steps=2, held_to=None,
        overrides=(
            *line.overrides, f"data.max_length={sequence}", "model.dtype=float32", "quantization.compute_dtype=float32",
            "training.optimizer=adamw_torch", "hardware.device=cpu", "hardware.memory=auto",
        ),
    )  # fmt: skip


def model_config(line: Line, models: Path | None, tiny: bool) -> dict[str, Any]:
    """config.json of the line's model: of `models` where it has one whose name begins so, else as shipped.

    Raises Skipped where neither has it.
    """
    found = [file for root in (models, SHIPPED) if root for file in sorted(root.glob(f"**/{line.model}*/config.json"))]
    if not found:
        raise Skipped(f"no config.json for {line.model}: name a directory that has it with --models")
    fields = json.loads(found[0].read_text(encoding="utf-8"))
    return {**fields, **TINY} if tiny else fields
