"""Every float32 tensor of a traced step, and why it is one. What has no reason is a stray upcast."""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch

from finetune.preflight.tape import Recorder
from finetune.preflight.trace import trace
from finetune.spec import RunSpec

STRAY = "nothing that is known asks for it"
ALL = "all of the run computes in float32: model.dtype, quantization.compute_dtype or model.fp32_unquantized"
GRADIENT = "the gradient of one of these"
WHY = {
    r"norms\.py:RMSNorm\.": "a norm squares and divides in float32, a tile at a time",
    r"modeling_\w+\.py:\w*Norm\.forward": "the model's own norm computes in float32",
    r"modeling_\w+\.py:\w*RotaryEmbedding\.forward": "sines and cosines of the positions",
    r"modeling_\w+\.py:apply_rotary_pos_emb": "the model's own code turns queries and keys in float32",
    r"modeling_\w+\.py:eager_attention_forward": "the softmax of the scores",
    r"modeling_\w+\.py:\w*(Router|Experts|Moe\w*|OssMLP)\.forward": "experts are weighed and added up in float32",
    r"kernels\.py:Attention\.|sdpa_attention\.py:": "attention's kernel: its sums, and gradients that it adds up",
    r"bitsandbytes/.*dequant": "block constants of the weight that is expanded",
    r"chunked_logprob\.py:|linear_loss\.py:|spec/loss\.py:": "the loss is summed up in float32",
    r"peft/tuners/lora/": "adapters compute in float32: lora.dtype, with autocast off",
    r"preflight/loading\.py:": "weights and adapters that are kept in float32",
    r"optimisers\.py:|torch/optim/": "the optimiser's state",
    r"operations\.py:.*convert_to_fp32": "accelerate makes the model's outputs float32",
    r"autocast\.py:_float$": "autocast computes this operation in float32",
    r"step\.py:Batch\.": "the batch",
    r"_engine_run_backward": GRADIENT,
}
"""Reasons, by where a tensor is asked for: FILE:FUNCTION of the innermost of the functions that are running."""


@dataclasses.dataclass
class Wide:
    """Float32 tensors of one reason: how many were made in the step, the largest's bytes, the operations that made
    them and where the first was asked for."""

    why: str
    made: int
    largest: int
    operations: set[str]
    where: str


class _Recorder(Recorder):
    """Notes of each float32 storage why it is made."""

    def __init__(self, found: dict[str, Wide], least: int, *args: Any) -> None:
        super().__init__(*args)
        self.found, self.least = found, least

    def _see(self, tensor: torch.Tensor) -> None:
        before = len(self.tape.sizes)
        super()._see(tensor)
        if len(self.tape.sizes) == before or tensor.dtype != torch.float32 or self.tape.sizes[-1] < self.least:
            return
        why, where = reason(sys._getframe(1))
        one = self.found.setdefault(why, Wide(why, 0, 0, set(), where))
        one.made += 1
        one.largest = max(one.largest, self.tape.sizes[-1])
        one.operations.add(self.tape.ops[-1])


LEAST = 2**20
"""Bytes below which nobody minds."""


def float32_tensors(spec: RunSpec, least: int = LEAST) -> list[Wide]:
    """The float32 tensors of `least` bytes or more that two updates of a run make, by reason, the largest first. Those
    of reason `STRAY` are listed last."""

    found: dict[str, Wide] = {}
    trace(spec, recording=functools.partial(_Recorder, found, least))
    if torch.float32 in (spec.dtype, spec.compute_dtype) or spec.config.model.fp32_unquantized:
        found |= {STRAY: dataclasses.replace(found[STRAY], why=ALL)} if STRAY in found else {}
    return sorted(found.values(), key=lambda one: (one.why == STRAY, -one.largest))


def reason(frame: FrameType | None) -> tuple[str, str]:
    """Why a tensor is made that the running functions ask for, and the innermost of them that is no library's."""
    places = list(_places(frame))
    for place in places:
        for pattern, why in WHY.items():
            if re.search(pattern, place):
                return why, place
    return STRAY, next((place for place in places if "modeling_" in place), places[0])


def _places(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        code = frame.f_code
        yield f"{'/'.join(code.co_filename.split('/')[-5:])}:{code.co_qualname}"
        frame = frame.f_back


def listed(found: list[Wide]) -> str:
    """Plain text: a line for each reason."""
    lines = ["in float32, 1 MiB or more: how large at most, how many in two updates, and why"]
    for one in found:
        where = f" ({', '.join(sorted(one.operations))}, {one.where})" if one.why == STRAY else ""
        lines.append(f"  {one.largest / 2**20:>9,.1f} MiB  {one.made:>6,}  {one.why}{where}")
    return "\n".join(lines)
