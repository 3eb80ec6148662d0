"""The progress bar: step, loss, tokens per second, memory, time left."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback

from finetune.training.memory import MemoryMeter


class ProgressBar(TrainerCallback):
    """A Rich bar on a terminal; elsewhere a plain line for every tenth of the run."""

    def __init__(self, console: Console, memory: MemoryMeter) -> None:
        self.console = console
        self.memory = memory
        self.progress: Progress | None = None
        self._task = None
        self._next = 0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Opens the bar."""
        if not self.console.is_terminal:
            return
        columns = (
            TextColumn("[bold]training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        self.progress = Progress(*columns, console=self.console)
        self._task = self.progress.add_task("", total=state.max_steps, completed=state.global_step, numbers="")
        self.progress.start()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Moves the bar."""
        if self.progress:
            self.progress.update(self._task, completed=state.global_step)

    def on_log(self, args, state, control, logs: dict[str, Any] | None = None, **kwargs) -> None:
        """Shows the latest numbers."""
        held_out = {key.removeprefix("eval_"): logs[key] for key in logs or {} if key.startswith("eval_")}
        if held_out:
            said = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in held_out.items())
            self.console.print(f"step {state.global_step}: held-out {said}", highlight=False)
        if not logs or "loss" not in logs:
            return
        memory = self.memory.peak() / 2**30
        learned = {key: logs[key] for key in ("reward", "margin") if logs.get(key) is not None}
        numbers = "".join(f"{name} {value:.3f}  " for name, value in learned.items() or [("loss", logs["loss"])])
        numbers += f"{logs.get('tokens_per_second', 0):,.0f} tokens/s  {memory:.2f} GiB"
        if self.progress:
            self.progress.update(self._task, numbers=numbers)
        elif state.global_step >= min(self._next, state.max_steps):
            self._next = state.global_step + state.max_steps // 10
            self.console.print(f"step {state.global_step}/{state.max_steps}  {numbers}", highlight=False)

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """Leaves the terminal as it was, also after an interrupt."""
        if self.progress:
            self.progress.stop()
            self.progress = None
