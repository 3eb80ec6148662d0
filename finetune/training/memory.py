"""Memory that a run takes on its device, measured so that it can stand beside the prediction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psutil
import torch

from finetune.live_tensors import LiveTensors
from finetune.spec.skeleton import linear4bit_modules


class MemoryMeter:
    """Peak bytes of a run's tensors.

    On CUDA torch's allocator counts them. On the CPU nobody does, and the resident memory of the process holds much
    else (libraries, the data, what malloc keeps); so the tensors are followed, from their making to their end, through
    the first batches and through every batch larger than those before.
    """

    FOLLOWED = 4  # batches, enough for the second update where two batches make one

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.begin()

    def begin(self) -> None:
        """Forgets the peak so far: from here on it is that of what comes."""
        self._tensors = LiveTensors()
        self._settled: int | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._batches, self._largest = 0, 0
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def settle(self, peak: int) -> None:
        """`peak` bytes stand for the rest of the run, and nothing is followed any more: layers that are would not be
        compiled. A card goes on counting."""
        self.begin()
        self._settled = peak

    @property
    def meaning(self) -> str:
        """What `peak` measures, for the report."""
        if self.device.type == "cuda":
            return "peak bytes allocated by torch"
        return "peak bytes of the tensors alive, as torch counts them on a card"

    def follow(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None, elements: int
    ) -> AbstractContextManager[Any]:
        """What a forward and backward pass over a batch of `elements` tokens runs in."""
        self._optimizer = optimizer
        if (
            self.device.type == "cuda"
            or self._settled is not None
            or (self._batches >= self.FOLLOWED and elements <= self._largest)
        ):
            return nullcontext()
        self._batches, self._largest = self._batches + 1, max(self._largest, elements)
        self._tensors.begin_with(_held(model))
        return self._tensors

    def peak(self) -> int:
        """Highest use so far, in bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if self._settled is not None:
            return self._settled
        return self._tensors.peak + _state_bytes(self._optimizer)


def peak_resident() -> int:
    """Highest resident memory of this process now or earlier, in bytes: what a machine must have for it."""
    memory = psutil.Process().memory_info()
    return getattr(memory, "peak_wset", None) or _high_water() or memory.rss


def _high_water() -> int:
    """Linux's VmHWM in bytes: its getrusage would count the process that started this one too (measured)."""
    try:
        with open("/proc/self/status") as status:  # noqa: PTH123 - a kernel file, read line by line
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return 0


def _held(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Tensors that a model holds between batches: weights or this process's part of them, block constants, gradients,
    buffers."""
    for parameter in model.parameters():
        yield parameter.to_local() if hasattr(parameter, "to_local") else parameter
        if parameter.grad is not None:
            yield parameter.grad
    for module in linear4bit_modules(model):
        state = getattr(module.weight, "quant_state", None) or module.quant_state
        for part in (state, getattr(state, "state2", None)) if state else ():
            yield from (value for value in vars(part).values() if isinstance(value, torch.Tensor)) if part else ()
    yield from model.buffers()


def _state_bytes(optimizer: torch.optim.Optimizer | None) -> int:
    """Bytes of an optimiser's state: it is made outside the passes that are followed. Tensors may share a part of it,
    as they do the codes of 8-bit state."""
    states = optimizer.state.values() if optimizer else ()
    tensors = (value for state in states for value in state.values() if isinstance(value, torch.Tensor))
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
