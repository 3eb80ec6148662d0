"""The micro batches of one update, kept until the optimiser takes their sum: an update can be done again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from finetune.errors import DoesNotFit
from finetune.training.halves import lack_of_memory, release, taken
from finetune.training.randomness import drawn_for, random_state, set_random_state

if TYPE_CHECKING:
    from finetune.training.guarded import Guarded

COUNTERS = ("_metrics", "_step", "_total_train_tokens", "_current_train_step_time")
"""What TRL's trainers note of a pass; not every one has all."""

HINT = "lower data.max_length, or see what fits with `finetune preflight CONFIG --gpu 24GiB`"


@dataclass
class MicroBatch:
    """One forward and backward pass: its inputs on the device, the numbers of its units (rows, packs, pairs) in the
    data set, the random numbers that it began with, those of its units that are trained, and in how many parts. Then
    what came of it: loss, and TRL's metrics and count of tokens."""

    inputs: dict[str, Any]
    numbers: torch.Tensor | None
    randomness: dict[str, Any]
    units: list[int]
    size: int
    parts: int = 1
    loss: torch.Tensor | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    tokens: int = 0

    def part(self, trainer: Guarded, units: Sequence[int]) -> dict[str, Any]:
        """The inputs of some units, in the width of the whole."""
        total = trainer.rows(self.inputs)
        return taken(self.inputs, trainer.rows_of(units, total), total)

    def kept(self, trainer: Guarded) -> dict[str, Any]:
        """The inputs of those that are trained."""
        return self.part(trainer, self.units)

    def cut(self, units: Sequence[int]) -> list[Sequence[int]]:
        """Units in pieces as large as this batch is done in."""
        each = -(-self.size // self.parts)
        return [units[start : start + each] for start in range(0, len(units), each)]


class Update:
    """The micro batches so far. Gradients that a failed pass has left in part are not undone but made again: of this
    update alone, from the same numbers, so bit for bit. Nothing is copied while all goes well."""

    def __init__(self, trainer: Guarded) -> None:
        self.trainer = trainer
        self.micro_batches: list[MicroBatch] = []
        self.begun, self.measured = 0, False
        self.count: torch.Tensor | int | None = None
        self._running: Sequence[int] = ()
        self.lengths_before = {name: len(values) for name, values in trainer._metrics["train"].items()}
        self.tokens_before = getattr(trainer, "_total_train_tokens", 0)
        total = getattr(trainer, "_tr_loss", None)
        self.loss_before = None if total is None else total.clone()

    def step(
        self, model: torch.nn.Module, inputs: dict[str, Any], numbers: torch.Tensor | None, count: torch.Tensor | None
    ) -> torch.Tensor:
        """A pass over the next micro batch; its loss. Where memory runs out, it is done in pieces.

        Raises DoesNotFit where one unit alone does not fit.
        """
        trainer, size = self.trainer, self.trainer.units(inputs)
        micro = MicroBatch(inputs, numbers, random_state(trainer.args.device), list(range(size)), size)
        self.model, self.count, self._running = model, count, micro.units
        self.micro_batches.append(micro)
        try:
            micro.loss = trainer.pass_over(model, inputs, count)
            return micro.loss
        except RuntimeError as error:
            reason = lack_of_memory(error)
            if reason is None or trainer.sharded:
                raise
        # Only here is the error gone, and with it the frames that hold the activations.
        self._divide(micro, reason)
        self.again()
        if hasattr(trainer, "_step"):
            trainer._step += 1  # which of the completions come next; the pass that failed did not count itself
        return micro.loss

    def again(self) -> None:
        """The gradients of all micro batches from nothing, each whole or in its parts, and TRL's metrics of them."""
        while lack := self._attempt():
            self._divide(*lack)
        self._enter_metrics()

    def leave_out(self, faulty: dict[int, list[int]]) -> None:
        """Has units of micro batches, by its place among them, trained no more; one without any left is gone."""
        for at, units in faulty.items():
            micro = self.micro_batches[at]
            micro.units = [unit for unit in micro.units if unit not in units]
        self.micro_batches = [micro for micro in self.micro_batches if micro.units]

    def set_loss(self) -> None:
        """Puts the losses of the micro batches as they are now into the trainer's sum."""
        losses = [micro.loss for micro in self.micro_batches]
        self.trainer._tr_loss.copy_(sum(losses, start=self.loss_before))

    def drop_metrics(self) -> None:
        """Forgets TRL's metrics of this update."""
        metrics = self.trainer._metrics["train"]
        for name in {name for micro in self.micro_batches for name in micro.metrics}:
            metrics[name] = metrics[name][: self.lengths_before.get(name, 0)]
            if not metrics[name]:
                del metrics[name]  # TRL divides by their number

    def finite(self, norm: torch.Tensor | None) -> bool:
        """Whether losses, and the gradients' norm where one is given, are numbers, in every process: the one wait of an
        update for its device."""
        values = [micro.loss.detach().float() for micro in self.micro_batches]
        values += [] if norm is None else [norm.float()]
        return self.trainer.processes.all(not values or bool(torch.isfinite(torch.stack(values)).all()))

    def passes(self, micro: MicroBatch, units: Sequence[int]) -> bool:
        """Whether some units of a micro batch give a loss and gradients that are numbers; leaves no gradient."""
        model = self.model
        model.zero_grad()
        found = [self._run(micro, micro.cut(units))]
        if self.trainer.accelerator.scaler is None:  # float16: infinite gradients are the scaler's business
            gradients = (parameter.grad for parameter in model.parameters() if parameter.grad is not None)
            found += [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
        model.zero_grad()
        return bool(torch.isfinite(torch.stack([value.float() for value in found])).all())

    def _attempt(self) -> tuple[MicroBatch, str] | None:
        """Does every micro batch; the one that lacked memory, and the words, where one did."""
        self.trainer.clear_gradients()
        release()
        for micro in self.micro_batches:
            try:
                micro.loss = self._run(micro, micro.cut(micro.units))
            except RuntimeError as error:
                reason = lack_of_memory(error)
                if reason is None or self.trainer.sharded:
                    raise
                return micro, reason
        return None

    def _run(self, micro: MicroBatch, pieces: list[Sequence[int]]) -> torch.Tensor:
        """Adds the gradients of pieces of a micro batch. Each begins with the batch's random numbers, and so ends with
        those that the whole one ends with."""
        trainer, total = self.trainer, self.trainer.rows(micro.inputs)
        kept = micro.part(trainer, [unit for units in pieces for unit in units])
        losses, noted = [], []
        for units in pieces:
            self._running, inputs = units, micro.part(trainer, units)
            rows = trainer.rows_of(units, total)
            set_random_state(micro.randomness, trainer.args.device)
            with (
                _aside(trainer) as found,
                drawn_for(rows, total),
                trainer.shared(inputs, kept),
            ):
                losses.append(trainer.pass_over(self.model, inputs, self.count))
            noted.append((inputs, found))
        tokens = [found.pop("tokens") for _, found in noted]
        micro.tokens = sum(tokens) if "attention_mask" in micro.inputs else tokens[0]  # of packs TRL counts one
        micro.metrics = _merged(trainer, noted)
        return torch.stack(losses).sum()

    def _divide(self, micro: MicroBatch, reason: str) -> None:
        """In twice as many pieces. Raises DoesNotFit where it was a unit alone."""
        trainer = self.trainer
        if len(self._running) == 1:
            (where,) = trainer.guards.named(micro, self._running)
            raise DoesNotFit(
                f"out of memory in update {trainer.state.global_step + 1}: {where} does not fit, even alone: {reason}",
                "; ".join(trainer.guards.advice()) or HINT,
            )
        micro.parts = min(2 * micro.parts, micro.size)
        trainer.guards.on_split(micro.size, -(-micro.size // micro.parts), reason)

    def _enter_metrics(self) -> None:
        """TRL's metrics of this update as they are now, each micro batch once."""
        metrics = self.trainer._metrics["train"]
        for name in {name for micro in self.micro_batches for name in micro.metrics}:
            kept = metrics[name][: self.lengths_before.get(name, 0)]
            metrics[name] = kept + [micro.metrics[name] for micro in self.micro_batches]
        if tokens := sum(micro.tokens for micro in self.micro_batches):
            self.trainer._total_train_tokens = self.tokens_before + tokens
            metrics["num_tokens"] = [self.trainer._total_train_tokens]


@contextmanager
def _aside(trainer: Guarded) -> Iterator[dict[str, Any]]:
    """TRL counts nothing, and what it notes of a pass goes into the dictionary given: the mean of each metric, and the
    pass's `tokens`."""
    kept = {name: getattr(trainer, name) for name in COUNTERS if hasattr(trainer, name)}
    trainer._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    noted: dict[str, Any] = {"tokens": 0}
    try:
        yield noted
        found = trainer._metrics["train"]
        if "num_tokens" in found:
            noted["tokens"] = found.pop("num_tokens")[-1] - kept["_total_train_tokens"]
        noted |= {name: values[-1] for name, values in found.items()}
    finally:
        for name, value in kept.items():
            setattr(trainer, name, value)


def _merged(trainer: Guarded, noted: list[tuple[dict[str, Any], dict[str, float]]]) -> dict[str, float]:
    """TRL's means over pieces as one over all of them; the smallest and the largest stay that."""
    merged = {}
    ends = {"_min": min, "_max": max}
    for name in noted[0][1]:
        if name[-4:] in ends:
            merged[name] = ends[name[-4:]](found[name] for _, found in noted)
            continue
        weights = [float(trainer.metric_weight(inputs, name)) for inputs, _ in noted]
        terms = [w * found[name] for w, (_, found) in zip(weights, noted, strict=True) if w]
        merged[name] = sum(terms) / sum(weights) if terms else noted[0][1][name]
    return merged
