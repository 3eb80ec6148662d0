"""Numbers of a run while it runs: metrics.jsonl, tokens per second, and what is counted across a resume."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from finetune.json_lines import keep_until

if TYPE_CHECKING:
    from finetune.training.watched import Watched

COUNTS = ("rows_seen", "tokens_seen", "trained_seen")


class MetricsWriter(TrainerCallback, ExportableState):
    """Appends one line to metrics.jsonl for each log of the trainer, and keeps the time spent in the loop.

    `seconds` is that of the training loop alone: evaluations and saves inside it are taken out. Seconds and counts
    are part of every checkpoint, so those of a run that was resumed are of the whole run.
    """

    KEYS = (
        "loss", "spike", "learning_rate", "grad_norm", "entropy", "mean_token_accuracy",
        "noise_scale", "noise_scale_low", "noise_scale_high",
        "reward", "reward_std", "dead_groups", "kl", "completion_length", "completions_cut",
        "margin", "accuracy", "reward_chosen", "reward_rejected",
    )  # fmt: skip
    PREFIXES = ("eval_", "rewards/")
    """Held-out figures, and the mean and spread of each reward by its name."""

    def __init__(self, path: Path, trainer: Watched) -> None:
        self.path = path
        self.trainer = trainer
        self.seconds = 0.0
        self._since: float | None = None
        self._last = (0.0, 0)

    def state(self) -> dict[str, Any]:
        """What transformers writes into a checkpoint's trainer_state.json."""
        counts = {name: int(getattr(self.trainer, name)) for name in COUNTS}
        return {"args": {}, "attributes": {"seconds": self.seconds, **counts}}

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Takes up a checkpoint's seconds and counts, and drops the lines of updates that are done again."""
        saved = state.stateful_callbacks[type(self).__name__]["attributes"]
        self.seconds, self._since = saved["seconds"], None
        for name in COUNTS:
            getattr(self.trainer, name).fill_(saved[name])
        self._last = (self.seconds, saved["tokens_seen"])
        keep_until(self.path, state.global_step)

    def sync(self) -> None:
        """Forces the lines so far to the disk: a checkpoint takes them as written. Raises OSError."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """Starts the clock of one update."""
        if self._since is None:
            self._since = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Stops the clock; waits for the device only where something else comes next."""
        pauses = control.should_log or control.should_evaluate or control.should_save
        if pauses and torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds += now - (self._since or now)
        self._since = None if control.should_evaluate or control.should_save else now

    def on_log(self, args, state, control, logs: dict[str, Any] | None = None, **kwargs) -> None:
        """Writes one line, and adds speed and memory to what reporters see after it."""
        logs = {} if logs is None else logs
        values = {key: logs[key] for key in self.KEYS if key in logs}
        values |= {key: value for key, value in logs.items() if key.startswith(self.PREFIXES)}
        if not values:
            return
        line = {"step": state.global_step, "epoch": round(state.epoch or 0, 4), **values}
        if "loss" in values:
            logs |= {"tokens_per_second": self._speed(), "memory_bytes": self.trainer.memory.peak()}
            line |= {key: logs[key] for key in ("tokens_per_second", "memory_bytes")}
            line["seconds"] = round(self.seconds, 3)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({key: _finite(value) for key, value in line.items()}) + "\n")

    def _speed(self) -> float:
        """Tokens per second, without padding, since the last line."""
        seconds, tokens = self.seconds, int(self.trainer.tokens_seen)
        before_seconds, before_tokens = self._last
        self._last = (seconds, tokens)
        return round((tokens - before_tokens) / max(seconds - before_seconds, 1e-9), 1)


def _finite(value: Any) -> Any:
    """NaN and infinity are no JSON: they become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
