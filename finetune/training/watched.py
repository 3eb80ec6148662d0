"""What the trainer of every method has: memory and tokens followed, held-out figures, callbacks in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import transformers
from transformers import PrinterCallback, TrainerCallback

from finetune.processes import Processes
from finetune.spec import RunSpec
from finetune.training.checkpoints import keep_checkpoints, write_checkpoint
from finetune.training.compiled import CompiledLayers
from finetune.training.guarded import Guarded
from finetune.training.memory import MemoryMeter
from finetune.training.randomness import begin_random, random_state
from finetune.training.saved_state import SavedState, state_files

REFERENCE = "ref"
"""TRL's name for the copy of an adapter that it makes as a reference (dpo, rloo, grpo)."""


class Shape(NamedTuple):
    """A batch in words: what it is for, its rows, and the tokens of its longest row."""

    purpose: str
    rows: int
    longest: int

    def __str__(self) -> str:
        return f"the largest {self.purpose} batch ({self.rows} x {self.longest:,} tokens)"


class Watched(Guarded):
    """Comes before one of TRL's trainers in the order of classes.

    `rows_seen` and `tokens_seen` count rows and tokens without padding, `trained_seen` those that are trained. They are
    tensors on the model's device, so that counting never waits for it. `lengths` are the tokens of each row of the
    training data set, at most.
    """

    NAMES: ClassVar[dict[str, str]] = {}
    """TRL's names of metrics, and ours for the same."""

    def __init__(self, *args: Any, spec: RunSpec, lengths: list[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.spec, self.lengths = spec, lengths
        if REFERENCE in self.model.peft_config:
            # A copy of an adapter that does nothing yet: the base model is the same reference, in no more memory.
            self.model.delete_adapter(REFERENCE)
        self.memory = MemoryMeter(self.args.device)
        self.compiled: CompiledLayers | None = None
        self.remove_callback(PrinterCallback)  # the progress bar says it better
        self.add_before_reporters(LastUpdate(evaluates=bool(self.eval_dataset)), OpenLine(self), self.guards)
        self.resumed: SavedState | None = None
        self.random_beside: list[dict[str, Any]] = []
        zero = torch.zeros((), dtype=torch.long, device=self.args.device)
        self.rows_seen, self.tokens_seen, self.trained_seen = zero.clone(), zero.clone(), zero.clone()

    def join(self, processes: Processes) -> None:
        """Makes it the trainer of one of these processes; reporters hear of the first alone."""
        self.processes = processes
        if not processes.main:
            callbacks = self.callback_handler.callbacks
            callbacks[:] = [callback for callback in callbacks if not _reports(callback)]

    def share_base(self) -> None:
        """Shares the base out among the processes, where the configuration says so."""
        self.processes.before_meeting.clear()
        if self.spec.config.hardware.shards > 1:
            from finetune.training.sharded import share_base  # here: one process needs none of it

            share_base(self.spec, self.model, self.processes)
            self.sharded = True

    def compile(self) -> None:
        """Has layers be compiled when they are first run."""
        self.compiled = CompiledLayers(self.model)

    def held_out(self, rows: Sequence[Any]) -> dict[str, float]:
        """Figures of the model as it is, on held-out rows."""
        raise NotImplementedError

    def largest_held_out(self) -> tuple[list[Any], Shape]:
        """The held-out rows that take the most memory together, and the shape of their batch."""
        raise NotImplementedError

    def batch_of(self, rows: list[dict[str, Any]]) -> Any:
        """What the data loader would make of these training rows."""
        return self.data_collator(rows)

    @property
    def rows_at_once(self) -> int:
        """Training rows that come together."""
        return self.args.per_device_train_batch_size

    def rehearsing(self) -> None:
        """Called at the beginning of each update of a rehearsal."""

    def last_notes(self) -> list[str]:
        """What is to be said of the run at its end."""
        return [*self.guards.notes(), *(self.compiled.notes() if self.compiled else [])]

    def count(self, rows: int | torch.Tensor, tokens: torch.Tensor, trained: torch.Tensor) -> None:
        """Adds a batch to what was seen."""
        self.rows_seen += rows
        self.tokens_seen += tokens
        self.trained_seen += trained

    def add_before_reporters(self, *callbacks: TrainerCallback) -> None:
        """Adds callbacks that are called before TensorBoard and the like, which thus see what these add to a log."""
        present = self.callback_handler.callbacks
        reporters = (i for i, known in enumerate(present) if _reports(known))
        at = next(reporters, len(present))
        present[at:at] = callbacks

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains. The bar and the reporters are closed also where it fails or is interrupted."""
        try:
            return super().train(*args, **kwargs)
        except BaseException:
            self.callback_handler.on_train_end(self.args, self.state, self.control)
            raise

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """A checkpoint of our own format in the place of transformers', which is written in place and pickled. The
        first process writes it, with the random numbers of all."""
        self.store_flos()
        _, *self.random_beside = self.processes.gather(random_state(self.args.device))
        if self.processes.main:
            self.save()
        self.processes.wait()

    def save(self) -> None:
        """Writes a checkpoint of the run as it is, and removes those that are then too many. Raises OSError."""
        folder = Path(self.args.output_dir)
        write_checkpoint(folder, self.state.global_step, state_files(self))
        keep_checkpoints(folder, self.args.save_total_limit, best=self.state.best_global_step)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The first thing that transformers asks of a checkpoint."""
        self.resumed = SavedState(Path(resume_from_checkpoint))
        self.resumed.restore_adapter(self)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self.resumed.restore_optimizer(self)

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Came with the optimiser."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self.resumed.restore_random(self)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """A better held-out figure than all before is worth a checkpoint, where there are any."""
        best = super()._determine_best_metric(metrics, trial)
        self.control.should_save |= best and self.spec.config.training.save_steps is not None
        return best

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, torch.Tensor | int | None]:
        """No rows where no update is left: transformers makes one too many where it resumes after the last."""
        if self.state.global_step >= self.state.max_steps:
            return [], None
        return super().get_batch_samples(*args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs under our names."""
        self._metrics["train"] = _renamed(self._metrics["train"], self.NAMES)
        super().log(logs, *args, **kwargs)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Held-out figures over all rows: transformers' own averages weigh batches, not tokens."""
        found = self.held_out(self.eval_dataset)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        # Not TRL's own log, which would report and forget the training metrics since the last line.
        transformers.Trainer.log(self, dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def last_held_out(self) -> dict[str, float]:
        """The figures of the model as it is now, found anew only where the last update was not evaluated."""
        for entry in reversed(self.state.log_history):
            found = {name.removeprefix("eval_"): value for name, value in entry.items() if name.startswith("eval_")}
            if found and entry["step"] == self.state.global_step:
                return found
        return {name.removeprefix("eval_"): value for name, value in self.evaluate().items()}


class LastUpdate(TrainerCallback):
    """Logs and evaluates the last update whatever the intervals, while reporters still listen."""

    def __init__(self, *, evaluates: bool) -> None:
        self.evaluates = evaluates

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Called after every update, once DefaultFlowCallback has set its flags."""
        last = state.global_step >= state.max_steps
        control.should_log |= last
        control.should_evaluate |= last and self.evaluates


class OpenLine(TrainerCallback):
    """Takes up what a checkpoint holds of the log's next line, once transformers has set its sums to zero."""

    def __init__(self, trainer: Watched) -> None:
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Called before the first update. Processes beside the first draw random numbers of their own."""
        if self.trainer.resumed is not None:
            self.trainer.resumed.restore_open_line(self.trainer)
        elif not self.trainer.processes.main:
            begin_random(args.seed, self.trainer.processes.rank, state.global_step)


def _reports(callback: TrainerCallback) -> bool:
    return "integrations" in type(callback).__module__


def _renamed(metrics: dict[str, list], names: dict[str, str]) -> Any:
    kept = type(metrics)(getattr(metrics, "default_factory", None))
    kept.update({names.get(name, name): values for name, values in metrics.items()})
    return kept
