"""Clocks and meters of a line: memory on the card, seconds and tokens of each step."""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from environment import used_bytes
from transformers import TrainerCallback


class Meter(TrainerCallback):
    """Seconds, tokens and allocator peaks at the end of every step, the card's work awaited.

    Made once the model and its trainer stand: the peaks are those of training alone. `seen` tells the tokens so far.
    """

    def __init__(self, trainer: Any, seen: Callable[[], int] | None = None) -> None:
        self.seen = seen or (lambda: int(trainer.tokens_seen))
        self.on_gpu = torch.cuda.is_available() and trainer.args.device.type == "cuda"
        self.ends: list[float] = []
        self.tokens: list[int] = []
        self.peaks: list[int] = []
        self.after_load = torch.cuda.memory_allocated() if self.on_gpu else None
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reads clock and meters."""
        if self.on_gpu:
            torch.cuda.synchronize()
            self.peaks.append(torch.cuda.max_memory_allocated())
        self.ends.append(time.perf_counter())
        self.tokens.append(self.seen())

    def memory(self, used_before: int | None) -> dict[str, Any]:
        """Peaks in bytes. `used_before` is what the card had in use before this process came.

        `process_bytes` is the peak that torch reserved and what this process has on the card besides: the CUDA
        context, kernels, paged optimiser state. Without a card these are None; the peak resident memory is there.
        """
        if not self.on_gpu:
            resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            return {"allocated_bytes": None, "reserved_bytes": None, "process_bytes": None, "resident_bytes": resident}
        reserved, outside, used = torch.cuda.max_memory_reserved(), None, used_bytes()
        if used is not None and used_before is not None:
            outside = used - used_before - torch.cuda.memory_reserved()
        free, total = torch.cuda.mem_get_info()
        return {
            "after_load_bytes": self.after_load,
            "allocated_bytes": torch.cuda.max_memory_allocated(),
            "allocated_bytes_each_step": self.peaks,
            "reserved_bytes": reserved,
            "process_bytes": None if outside is None else reserved + outside,
            "outside_torch_bytes": outside,
            "card_used_before_bytes": used_before,
            "card_used_after_bytes": used,
            "card_used_after_by_cuda_bytes": total - free,
            "retries": torch.cuda.memory_stats().get("num_alloc_retries"),
        }

    def speed(self, warmup: int) -> dict[str, Any]:
        """Tokens a second over the steps after the first `warmup`, and the seconds of every step but the first."""
        seconds = self.ends[-1] - self.ends[warmup - 1]
        each = [end - start for start, end in itertools.pairwise(self.ends)]
        return {
            "tokens_per_second": round((self.tokens[-1] - self.tokens[warmup - 1]) / seconds, 1),
            "warmup_steps": warmup,
            "step_seconds": [round(value, 4) for value in each],
            "tokens": self.tokens[-1],
        }
