"""Numbers of a run while it runs: metrics.jsonl, tokens per second, memory."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from transformers import TrainerCallback

if TYPE_CHECKING:
    from finetune.training.trainer import Trainer


class MemoryMeter:
    """Memory of a run on its device.

    On CUDA the allocator's peak of bytes in use; on the CPU the peak resident memory of the process above what it
    held when the meter was made, before any weight was loaded.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.baseline = psutil.Process().memory_info().rss
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @property
    def meaning(self) -> str:
        """What `peak` measures, for the report."""
        if self.device.type == "cuda":
            return "peak bytes allocated by torch"
        return "peak resident memory above that of the process before weights were loaded"

    def peak(self) -> int:
        """Highest use so far, in bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        unit = 1 if sys.platform == "darwin" else 1024
        return max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - self.baseline)

    def now(self) -> int:
        """Use at this moment, in bytes."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return max(0, psutil.Process().memory_info().rss - self.baseline)


class MetricsWriter(TrainerCallback):
    """Appends one line to metrics.jsonl for each log of the trainer, and keeps the time spent in the loop.

    `seconds` is that of the training loop alone: evaluations and saves inside it are taken out.
    """

    KEYS = ("loss", "learning_rate", "grad_norm", "eval_loss", "entropy", "mean_token_accuracy")

    def __init__(self, path: Path, memory: MemoryMeter, trainer: Trainer) -> None:
        self.path = path
        self.memory = memory
        self.trainer = trainer
        self.seconds = 0.0
        self.losses: list[float] = []
        self._since: float | None = None
        self._last = (0.0, 0)

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """Starts the clock of one update."""
        if self._since is None:
            self._since = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Stops the clock; waits for the device only where a line is due anyway."""
        if state.global_step % args.logging_steps == 0 and torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds += now - (self._since or now)
        self._since = now if not (control.should_evaluate or control.should_save) else None

    def on_log(self, args, state, control, logs: dict[str, Any] | None = None, **kwargs) -> None:
        """Writes one line."""
        values = {key: logs[key] for key in self.KEYS if logs and key in logs}
        if not values:
            return
        line = {"step": state.global_step, "epoch": round(state.epoch or 0, 4), **values}
        if "loss" in values:
            self.losses.append(values["loss"])
            line |= {
                "tokens_per_second": self._speed(),
                "memory_bytes": self.memory.now(),
                "seconds": round(self.seconds, 3),
            }
            logs["tokens_per_second"] = line["tokens_per_second"]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _speed(self) -> float:
        """Tokens per second, without padding, since the last line."""
        seconds, tokens = self.seconds, int(self.trainer.tokens_seen)
        before_seconds, before_tokens = self._last
        self._last = (seconds, tokens)
        return round((tokens - before_tokens) / max(seconds - before_seconds, 1e-9), 1)
