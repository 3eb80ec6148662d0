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
    """One measurement: CONFIG with the shape of `model` and `overrides`, for `steps` updates, by finetune or a `peer`.

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
    peer: str = "finetune"

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

SIDE_BY_SIDE = replace(QLORA_7B, name="7b_finetune", model="Mistral-7B", rows=10 * 4, steps=10, timeout=240, overrides=(
    "training.gradient_accumulation_steps=1",))  # fmt: skip
"""Packs of 2,048 tokens on a 7B shape that every peer knows, at its own default settings for what is not named here."""
KEPT = (
    "training.micro_batch_size=1", "training.gradient_accumulation_steps=4", "training.gradient_checkpointing=auto",
)  # fmt: skip
"""The same tokens an update, one pack at a time, and no more recomputed than the memory asks for."""
COMPILED = ("training.compile=true", "training.rehearsal=true")
"""Its layers compiled, in the first updates, which are left out of the speed."""
WITHOUT = {
    "varlen": "model.attention=sdpa",
    "lean_norms": "model.lean_norms=false",
    "lean_gates": "model.lean_gates=false",
    "fused_loss": "training.loss_kernel=full_logits",
    "fp32_adapters": "lora.dtype=bfloat16",
    "checkpointing": "training.gradient_checkpointing=false",
}
"""Parts of the fast path, and what each is switched off with."""
LONG = Line(
    name="8b_longest_131072",
    model="Llama-3.1-8B",
    sequence=131072,
    rows=2,
    steps=2,
    held_to="24GiB",
    timeout=590,
    overrides=(
        "data.packing=false", "data.max_length=131072", "training.micro_batch_size=1",
        "training.gradient_accumulation_steps=1", "training.activation_offloading=true",
        "training.feed_forward_chunk=4096", "lora.r=32", "lora.alpha=32", "lora.target_modules=all-linear",
    ),
)  # fmt: skip
"""The longest published context of an 8B shape on 24 GB is 78,475 tokens (Unsloth)."""

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
    grid = [_grid_line(*row.split()) for row in GRID.strip().splitlines()]
    return [QLORA_7B, *side_by_side(), LONG, *grid]


def side_by_side() -> list[Line]:
    """finetune as the plan is shipped, with what fits kept, and compiled; its peers; it without each part of its fast
    path."""
    ours = SIDE_BY_SIDE
    peers = [replace(ours, name=f"7b_{peer}", peer=peer) for peer in ("trl", "trl_best", "unsloth")]
    parts = [
        replace(ours, name=f"7b_without_{part}", overrides=(*ours.overrides, switch))
        for part, switch in WITHOUT.items()
    ]
    more = {"7b_kept": KEPT, "7b_compiled": (*ours.overrides, *COMPILED)}
    others = [replace(ours, name=name, overrides=overrides, timeout=400) for name, overrides in more.items()]
    return [ours, *others, *peers, *parts]


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
            "training.optimizer=adamw_torch", "training.activation_offloading=false", "hardware.device=cpu",
            "hardware.memory=auto",
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
