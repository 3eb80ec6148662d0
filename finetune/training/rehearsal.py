"""The rehearsal: the worst that a run will ask of its device, before the run begins."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import DefaultFlowCallback
from transformers.trainer_utils import SaveStrategy

from finetune.errors import DoesNotFit, RunDirError
from finetune.spec import RunSpec
from finetune.training.checkpoints import Unreadable, newest_good
from finetune.training.ending import REHEARSAL, rehearse_end
from finetune.training.unchanged import unchanged
from finetune.training.watched import Shape
from finetune.whole_file import scratch_folder

if TYPE_CHECKING:
    from finetune.training.watched import Watched

TOLERANCE = 0.05
"""Share by which the measured peak may differ from the predicted one before it is said aloud."""

UPDATES = 2
"""The first makes the optimiser's state, the second is measured beside it."""


@dataclass(frozen=True)
class Rehearsal:
    """What was found, in bytes and seconds; None where nothing was rehearsed, or nothing is held out.

    `tokens` is the size of the training batch with its padding; `notes` are for people.
    """

    train_peak_bytes: int | None = None
    eval_peak_bytes: int | None = None
    predicted_bytes: int | None = None
    seconds_per_micro_step: float | None = None
    checkpoint_bytes: int | None = None
    tokens: int | None = None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The figures, for report.json."""
        return {key: value for key, value in asdict(self).items() if key != "notes"}


def rehearse(spec: RunSpec, trainer: Watched, folder: Path, *, predicted: int) -> Rehearsal:
    """Runs the largest training batch, the largest evaluation batch, the saving of a checkpoint (below `folder`) and
    what comes at the end of the run, and puts the trainer back as it was. Does nothing where `training.rehearsal` is
    off.

    `predicted` is the peak that preflight expects, in bytes. Raises DoesNotFit where memory or disk runs out,
    RunDirError where a checkpoint does not read back, AuditError where something is not as it was.
    """
    if not spec.config.training.rehearsal:
        return Rehearsal()
    main, aside = trainer.processes.main, folder / REHEARSAL
    if main:
        rehearse_end(trainer.model, trainer.processing_class, folder)
    shortest, largest, longest = _extremes(trainer)
    peaks, clock = {}, StepClock(trainer)
    with scratch_folder(aside) if main else nullcontext(aside) as checkpoints, unchanged(trainer):
        trainer.guards = None  # what does not fit is to fail here
        shape = Shape("training", min(len(largest), spec.config.training.micro_batch_size), longest)
        with _measured(trainer, spec, shape, peaks):
            _train(trainer, shortest, largest, str(checkpoints), clock)
        checkpoint_bytes = _size_of_newest(checkpoints) if main else None
        if trainer.compiled and trainer.args.device.type == "cpu":  # what is followed is not compiled
            trainer.memory.settle(peaks[shape])
            _train(trainer, shortest, largest, None, clock)
        if trainer.eval_dataset:
            _evaluate(trainer, spec, peaks)
    trainer.memory.settle(max(peaks.values())) if trainer.compiled else trainer.memory.begin()
    return Rehearsal(
        train_peak_bytes=peaks[shape],
        eval_peak_bytes=next((peak for batch, peak in peaks.items() if batch.purpose == "evaluation"), None),
        predicted_bytes=predicted,
        seconds_per_micro_step=clock.seconds,
        checkpoint_bytes=checkpoint_bytes,
        tokens=shape.rows * shape.longest,
        notes=_difference(spec, predicted, peaks),
    )


def _extremes(trainer: Watched) -> tuple[list[dict], list[dict], int]:
    """The shortest training row (pack, prompt), and the longest of as many as come together: no batch can be larger;
    and the tokens of the longest. Of a stream, whose rows nobody has counted, they are as long as they may be."""
    lengths = trainer.lengths
    longest = heapq.nlargest(trainer.rows_at_once, range(len(lengths)), key=lengths.__getitem__)
    rows = trainer.train_dataset
    shortest, largest = rows[lengths.index(min(lengths))], [rows[index] for index in longest]
    if trainer.spec.config.data.streaming:
        most = trainer.spec.config.data.max_length
        return [shortest], [_repeated(largest[0], most)] * trainer.rows_at_once, most
    return [shortest], largest, lengths[longest[0]]


def _repeated(row: dict[str, Any], tokens: int) -> dict[str, Any]:
    """The row as often as `tokens` has room for it."""
    times = -(-tokens // len(row["input_ids"]))
    ids, labels = ((row[name] * times)[:tokens] for name in ("input_ids", "labels"))
    return {**row, "input_ids": ids, "labels": labels, **({"seq_lengths": [tokens]} if "seq_lengths" in row else {})}


def _train(
    trainer: Watched, shortest: list[dict], largest: list[dict], checkpoints: str | None, clock: StepClock
) -> None:
    """The trainer's own `train` on two updates, a small one and one of the largest batch, which comes twice where
    the run accumulates gradients: the second time they are there already. At the end it saves a checkpoint, where
    there is a folder of `checkpoints`."""
    args = trainer.args
    args.output_dir, args.eval_strategy = checkpoints or args.output_dir, "no"
    args.save_strategy = SaveStrategy.STEPS if checkpoints else SaveStrategy.NO
    args.max_steps = args.save_steps = UPDATES
    args.gradient_accumulation_steps = passes = min(args.gradient_accumulation_steps // trainer.processes.count, 2)
    batches = [trainer.batch_of(rows) for rows in [shortest] * passes + [largest] * passes]
    trainer.get_train_dataloader = lambda: batches
    trainer.callback_handler.callbacks = [DefaultFlowCallback(), clock]  # no bar and no reporters
    trainer.train()


def _evaluate(trainer: Watched, spec: RunSpec, peaks: dict[Shape, int]) -> None:
    """One evaluation batch, beside the optimiser's state as in the middle of a run."""
    rows, shape = trainer.largest_held_out()
    follow = trainer.memory.follow
    with _measured(trainer, spec, shape, peaks), follow(trainer.model, trainer.optimizer, shape.rows * shape.longest):
        trainer.held_out(rows)


@contextmanager
def _measured(trainer: Watched, spec: RunSpec, shape: Shape, peaks: dict[Shape, int]) -> Iterator[None]:
    """Enters the peak of the body into `peaks`, and says what did not fit where memory or disk runs out."""
    trainer.memory.begin()
    try:
        yield
    except Unreadable:
        raise RunDirError(
            f"{spec.config.output_dir}: a checkpoint does not read back as it was written",
            "check the disk, or name an output_dir on another one",
        ) from None
    except OSError as error:
        raise DoesNotFit(
            f"a checkpoint could not be written in the rehearsal: {error}", "free space, or name another output_dir"
        ) from None
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in reason:
            raise DoesNotFit(f"out of memory in the rehearsal, at {shape}: {reason}", _smaller(spec)) from None
        raise
    peaks[shape] = trainer.memory.peak()


def _size_of_newest(checkpoints: Path) -> int:
    """Bytes of the checkpoint that was saved."""
    return sum(path.stat().st_size for path in newest_good(checkpoints).iterdir())


def _smaller(spec: RunSpec) -> str:
    training, data = spec.config.training, spec.config.data
    if training.micro_batch_size == 1:
        return f"lower data.max_length={data.max_length}; `finetune preflight CONFIG --gpu 24GiB` says what fits"
    return (
        f"halve training.micro_batch_size={training.micro_batch_size} and double training.gradient_accumulation_steps="
        f"{training.gradient_accumulation_steps}: the effective batch stays as it is"
    )


def _difference(spec: RunSpec, predicted: int, peaks: dict[Shape, int]) -> list[str]:
    """What differs, where the highest peak is not the one that was predicted."""
    shape, measured = max(peaks.items(), key=lambda item: item[1])
    if abs(measured - predicted) <= TOLERANCE * predicted:
        return []
    max_length = spec.config.data.max_length
    note = (
        f"rehearsal: {shape} took {measured / 2**30:.3f} GiB at its peak where {predicted / 2**30:.3f} GiB were "
        f"predicted ({measured / predicted - 1:+.1%})"
    )
    if shape.longest < max_length:
        note += f"; every row is priced at data.max_length={max_length}, the longest here has {shape.longest:,} tokens"
    return [note]


class StepClock(TrainerCallback):
    """Seconds of one forward and backward pass in the last update; on the CPU with its tensors being followed."""

    seconds = 0.0

    def __init__(self, trainer: Watched) -> None:
        self.trainer = trainer

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """Starts the clock."""
        self.trainer.rehearsing()
        self._began = _now()

    def on_pre_optimizer_step(self, args, state, control, **kwargs) -> None:
        """Stops it, once the device is done."""
        self.seconds = (_now() - self._began) / args.gradient_accumulation_steps


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
