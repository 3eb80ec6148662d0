"""What the processes of a run tell each other of an update, so that each goes on as if it had done all of it."""

from __future__ import annotations

from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from finetune.training.guarded import Guarded
    from finetune.training.update import Update

T = TypeVar("T")
Losses = list[tuple[torch.Tensor | None, torch.Tensor]]
"""For each micro batch the numbers of its units in the data set, and its mean loss."""

ABSENT = object()


def share_update(update: Update) -> Losses:
    """Enters the losses and TRL's metrics of every process's micro batches, in the order of the update, and counts the
    splits of all. Returns the micro batches of all."""
    trainer = update.trainer
    own = [(micro.numbers, trainer.mean_loss(micro, update.count)) for micro in update.micro_batches]
    if trainer.processes.alone:
        return own
    every = trainer.processes.gather(_account(update, own))
    losses = in_turn([one["losses"] for one in every])
    update.trainer._tr_loss.copy_(sum(map(torch.tensor, losses), start=update.loss_before.cpu()))
    _enter_metrics(update, every)
    trainer.guards.add_splits(sum(one["splits"] for one in every))
    return [(_tensor(numbers), torch.tensor(loss)) for numbers, loss in in_turn([one["means"] for one in every])]


def in_turn(every: list[list[T]]) -> list[T]:
    """What was dealt out in turn, put together again."""
    return [one for one in chain.from_iterable(zip_longest(*every, fillvalue=ABSENT)) if one is not ABSENT]


def _account(update: Update, own: Losses) -> dict[str, Any]:
    trainer = update.trainer
    found = {name: values for name, values in trainer._metrics["train"].items() if name != "num_tokens"}
    return {
        "losses": [float(micro.loss) for micro in update.micro_batches],
        "means": [(None if numbers is None else numbers.tolist(), float(loss)) for numbers, loss in own],
        "metrics": {name: values[update.lengths_before.get(name, 0) :] for name, values in found.items()},
        "tokens": _tokens(trainer) - update.tokens_before,
        "splits": trainer.guards.new_splits(),
    }


def _enter_metrics(update: Update, every: list[dict[str, Any]]) -> None:
    """As one process would have them after these micro batches."""
    trainer = update.trainer
    metrics = trainer._metrics["train"]
    for name in dict.fromkeys(name for one in every for name in one["metrics"]):
        before = metrics[name][: update.lengths_before.get(name, 0)]
        metrics[name] = before + in_turn([one["metrics"].get(name, []) for one in every])
        if not metrics[name]:
            del metrics[name]  # TRL divides by their number
    if tokens := sum(one["tokens"] for one in every):
        trainer._total_train_tokens = update.tokens_before + tokens
        metrics["num_tokens"] = [trainer._total_train_tokens]


def _tokens(trainer: Guarded) -> int:
    return getattr(trainer, "_total_train_tokens", 0)


def _tensor(numbers: list[int] | None) -> torch.Tensor | None:
    return None if numbers is None else torch.tensor(numbers)
