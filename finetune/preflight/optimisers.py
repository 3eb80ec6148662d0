"""The optimisers of a run on meta tensors: torch's own, and the state that bitsandbytes' would hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from finetune.preflight.tape import OPTIMISER

if TYPE_CHECKING:
    from finetune.preflight.tape import Recorder
    from finetune.spec import RunSpec

PAGED_FROM = 100_000
"""Elements from which bitsandbytes pages a state tensor (`Optimizer2State.get_state_buffer`)."""
EIGHT_BIT_FROM = 4096
"""Elements from which it keeps state in 8 bits (`min_8bit_size`)."""
BLOCK = 256
"""Elements that share a float32 maximum in 8-bit state."""
CODE = 256 * 4
"""Bytes of one 8-bit code, float32: two, one of them signed, serve all tensors in 8 bits."""


def make_optimiser(spec: RunSpec, trained: list[torch.nn.Parameter], recorder: Recorder) -> torch.optim.Optimizer:
    """The optimiser that `training.optimizer` names, for tracing; its state is put on the recorder's tape."""
    name = spec.config.training.optimizer
    if "adamw_8bit" in name or name.startswith("paged"):
        elements = [parameter.numel() for parameter in trained]
        codes = [CODE] * 2 if "8bit" in name and max(elements) >= EIGHT_BIT_FROM else []
        for size in (*codes, *(size for count in elements for size in state_sizes(name, count))):
            recorder.lasting(size, OPTIMISER, name)
        return torch.optim.SGD(trained, lr=0.0)  # its kernels update in place and take nothing more
    # On a card torch updates all tensors at once (`_default_to_fused_or_foreach`).
    together = spec.device.kind == "cuda"
    factory = {"adamw_torch": torch.optim.AdamW, "sgd": torch.optim.SGD}[name]
    return factory(trained, lr=0.0, foreach=together)


def state_sizes(name: str, elements: int) -> list[int]:
    """Bytes that bitsandbytes' AdamW holds on the card for a tensor of `elements`, without what it pages out."""
    eight_bit = "8bit" in name and elements >= EIGHT_BIT_FROM
    moments = [elements * (1 if eight_bit else 4)] * 2
    if name.startswith("paged") and elements >= PAGED_FROM:
        moments = []
    maxima = [-(-elements // BLOCK) * 4] * 2 if eight_bit else []
    return moments + maxima


def saved_state_bytes(name: str, elements: int) -> int:
    """Bytes that an optimiser's state for a tensor of `elements` takes in a checkpoint, paged or not."""
    if name == "sgd":
        return 0
    return sum(state_sizes(name.removeprefix("paged_"), elements))
