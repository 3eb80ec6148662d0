"""What the guards of a run have seen: said at once, written beside the run, counted for report and checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from finetune.json_lines import keep_until
from finetune.training.randomness import random_state, set_random_state
from finetune.training.spikes import Spikes

if TYPE_CHECKING:
    from finetune.training.guarded import Guarded
    from finetune.training.together import Losses
    from finetune.training.update import MicroBatch, Update

ADVISED = 3
"""Splits after which advice is given: one is a batch out of the ordinary, these are a run that does not fit."""

COUNTS = ("splits", "nonfinite_updates", "updates_left_out", "rows_left_out", "spikes")


class Guards(TrainerCallback, ExportableState):
    """Counts of splits, of updates that gave no numbers and what was left out of them, and of losses that stand out.

    They are part of every checkpoint, with the losses that the next is compared with. Of methods that learn from
    rewards no spike is told: their loss is a mean of advantages, which add up to nothing.
    """

    def __init__(self, trainer: Guarded, places: Callable[[int], list[str]]) -> None:
        self.trainer, self._places = trainer, places
        self.splits = self.nonfinite_updates = self.updates_left_out = self.rows_left_out = self.spikes = 0
        self._in_a_row = self._own_splits = 0
        self._folder: Path | None = None
        self._console = Console(quiet=True)
        self._advice: Callable[[], list[str]] = list
        self._advised = False
        self._history = Spikes()
        self._since: list[list[tuple[torch.Tensor | None, torch.Tensor]]] = []
        self._taken: list[bool] = []

    def tell(self, console: Console, folder: Path, advice: Callable[[], list[str]]) -> None:
        """From here on notes go to `console`, rows to files in `folder`; `advice` says what takes less memory."""
        self._console, self._folder, self._advice = console, folder, advice

    def state(self) -> dict[str, Any]:
        """What transformers writes into a checkpoint's trainer_state.json."""
        counts = {name: getattr(self, name) for name in COUNTS}
        open_line = {"taken": self._taken, "since": [[_plain(*micro) for micro in one] for one in self._since]}
        return {"args": {}, "attributes": {**counts, **open_line, "losses": list(self._history.losses)}}

    def to_json(self) -> dict[str, int]:
        """The counts, for report.json."""
        return {name: getattr(self, name) for name in COUNTS}

    def notes(self) -> list[str]:
        """What is to be said of the run at its end."""
        found = {
            f"{self.splits:,} times a batch did not fit and was split": self.splits,
            f"{self.nonfinite_updates:,} updates gave no numbers (nonfinite.jsonl); {self.updates_left_out:,} were "
            f"left out whole, of the others {self.rows_left_out:,} rows": self.nonfinite_updates,
            f"{self.spikes:,} losses stand out of those before them (spikes.jsonl)": self.spikes,
        }
        return [note for note, count in found.items() if count]

    def advice(self) -> list[str]:
        """What takes less memory; finding it draws no random numbers of the run."""
        before = random_state(self.trainer.args.device)
        try:
            return self._advice()
        finally:
            set_random_state(before, self.trainer.args.device)

    def named(self, micro: MicroBatch, units: Sequence[int]) -> list[str]:
        """The rows of units of a micro batch, as people find them; a pack's are one name."""
        numbers = micro.numbers.tolist() if micro.numbers is not None else micro.units
        return [" + ".join(self._places(numbers[unit])) for unit in units]

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Takes up a checkpoint's counts, and drops the lines of updates that are done again."""
        saved = state.stateful_callbacks.get(type(self).__name__, self.state())["attributes"]
        for name in COUNTS:
            setattr(self, name, saved[name])
        self._history = Spikes(saved["losses"])
        self._taken = list(saved["taken"])
        self._since = [[(_tensor(numbers), torch.tensor(loss)) for numbers, loss in one] for one in saved["since"]]
        for name in ("nonfinite.jsonl", "spikes.jsonl"):
            if self._folder:
                keep_until(self._folder / name, state.global_step)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Gives the advice once, between updates: tracing a run takes seconds."""
        if self.splits >= ADVISED and not self._advised:
            self._advised = True
            for line in self.advice():
                self._say(f"{self.splits:,} splits so far; {line}")

    def on_split(self, size: int, each: int, reason: str) -> None:
        """Called where a batch of `size` rows did not fit and is done in pieces of `each`."""
        self.splits += 1
        self._own_splits += 1
        if self.splits <= ADVISED:
            step = self.trainer.state.global_step + 1
            self._say(f"update {step}: a batch of {size} does not fit ({reason}): it is done {each} at a time")

    def new_splits(self) -> int:
        """This process's since the last call, which are counted for all from then on."""
        found, self._own_splits = self._own_splits, 0
        self.splits -= found
        return found

    def add_splits(self, count: int) -> None:
        """Counts those of all processes."""
        self.splits += count

    def on_nonfinite(self, update: Update, faulty: dict[int, list[int]], what: str, action: str) -> list[str]:
        """Called where an update gave no numbers; writes and returns the names of the rows that do so alone."""
        self.nonfinite_updates += 1
        at_fault = [(update.micro_batches[at], units) for at, units in faulty.items()]
        names = self._of_all([name for micro, units in at_fault for name in self.named(micro, units)])
        line = {"step": self.trainer.state.global_step + 1, "found": what, "rows": names, "action": action}
        if not names:
            every = [name for micro in update.micro_batches for name in self.named(micro, micro.units)]
            line["update"] = self._of_all(every)
        self._write("nonfinite.jsonl", line)
        self._say(f"update {line['step']}: {what}, from {', '.join(names) or 'no row alone'}")
        return names

    def left_out(self) -> int:
        """Called where a whole update is left out; how many were, one after another."""
        self.updates_left_out += 1
        self._in_a_row += 1
        self._taken.append(False)
        return self._in_a_row

    def after_update(self, micro_batches: Losses) -> None:
        """Called before the optimiser takes an update, with its micro batches, those of all processes."""
        if not micro_batches:
            return
        self._in_a_row = 0
        self._taken.append(True)
        self._since.append(micro_batches)

    def taken_since_log(self) -> tuple[int, int]:
        """Updates since the last log that were taken, and all of them."""
        return sum(self._taken), len(self._taken)

    def on_log(self, args, state, control, logs: dict[str, Any] | None = None, **kwargs) -> None:
        """Marks a loss that stands out, and names the rows of its update, those of the highest loss first."""
        if logs is None or "learning_rate" not in logs:
            return
        if "loss" in logs and not self.trainer.spec.config.training.online and self._history.add(logs["loss"]):
            self.spikes += 1
            logs["spike"] = True
            batches = self._worst()
            self._write("spikes.jsonl", {"step": state.global_step, "loss": logs["loss"], "micro_batches": batches})
            self._say(f"update {state.global_step}: the loss stands out at {logs['loss']:.3f}; see spikes.jsonl")
        self._since, self._taken = [], []

    def _worst(self) -> list[dict[str, Any]]:
        """Loss and rows of each micro batch since the last log, the highest first; of several updates the worst."""
        updates = [[(numbers, float(loss)) for numbers, loss in batches] for batches in self._since]
        worst = max(updates, key=lambda batches: sum(loss for _, loss in batches) / len(batches), default=[])
        batches = sorted(worst, key=lambda batch: -batch[1])
        return [
            {"loss": loss, "rows": [place for number in numbers.tolist() for place in self._places(number)]}
            for numbers, loss in batches
            if numbers is not None
        ]

    def _of_all(self, names: list[str]) -> list[str]:
        return [name for every in self.trainer.processes.gather(names) for name in every]

    def _write(self, name: str, line: dict[str, Any]) -> None:
        if self._folder:
            with (self._folder / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _say(self, note: str) -> None:
        self._console.print(note, markup=False, highlight=False, soft_wrap=True)


def _plain(numbers: torch.Tensor | None, loss: torch.Tensor) -> list[Any]:
    return [None if numbers is None else numbers.tolist(), float(loss)]


def _tensor(numbers: list[int] | None) -> torch.Tensor | None:
    return None if numbers is None else torch.tensor(numbers)
