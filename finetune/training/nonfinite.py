"""An update whose loss or gradient is no number: the rows that make it so, found by halving; nothing of it is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from finetune.errors import FinetuneError
from finetune.training.randomness import random_state, set_random_state

if TYPE_CHECKING:
    from finetune.training.guarded import Guarded
    from finetune.training.update import MicroBatch, Update

PATIENCE = 10
"""Updates left out one after another before the run ends: it learns nothing any more."""

LOWER = "a lower training.learning_rate or a longer training.warmup_ratio; float16 overflows where bfloat16 does not"

Faulty = dict[int, list[int]]
"""Units of micro batches, by the micro batch's place in the update."""


def finite(model: torch.nn.Module) -> bool:
    """Whether every trained tensor holds numbers only."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return bool(torch.stack([torch.isfinite(parameter).all() for parameter in trained]).all())


def recover(trainer: Guarded, norm: torch.Tensor | None, clip: Callable[[], torch.Tensor]) -> torch.Tensor | None:
    """Gradients of the update without the rows that spoil it, clipped, or none at all: optimisers step over tensors
    without a gradient, so weights and their state stay bit for bit. Random numbers go on as if nothing had been.

    Returns the norm; None for `clip` to be called yet. Raises FinetuneError where the run is to stop, and where it
    cannot go on: the weights are no numbers, or nothing was taken for a while.
    """
    update, guards = trainer.update, trainer.guards
    after = random_state(trainer.args.device)
    if not finite(trainer.model):
        raise _lost(trainer)
    what = _what(update, norm)
    faulty = _faulty(update)
    skips = trainer.spec.config.training.on_nonfinite == "skip"
    places = guards.on_nonfinite(update, faulty, what, "skip" if skips else "stop")
    trainer.clear_gradients()
    if not skips:
        for micro in update.micro_batches[:1]:
            set_random_state(micro.randomness, trainer.args.device)
        raise _stopped(trainer, what, places, alone=not _all(update, faulty))
    norm = _without(trainer, faulty, clip)
    set_random_state(after, trainer.args.device)
    return norm


def _without(trainer: Guarded, faulty: Faulty, clip: Callable[[], torch.Tensor]) -> torch.Tensor | None:
    update, guards = trainer.update, trainer.guards
    if trainer.processes.any(bool(faulty)) and not _all(update, faulty):
        _uncount(trainer, [update.micro_batches[at].part(trainer, units) for at, units in faulty.items()])
        update.leave_out(faulty)
        update.count = trainer.count_anew(update.micro_batches)
        update.again()
        norm = None if trainer.accelerator.scaler is not None else clip()
        if update.finite(norm):
            update.set_loss()
            guards.rows_left_out += trainer.processes.total(sum(map(len, faulty.values())))
            return norm
    return _nothing(trainer)


def _nothing(trainer: Guarded) -> torch.Tensor | None:
    """Nothing of the update is taken."""
    update, guards = trainer.update, trainer.guards
    _uncount(trainer, [micro.kept(trainer) for micro in update.micro_batches])
    update.drop_metrics()
    update.leave_out({at: list(micro.units) for at, micro in enumerate(update.micro_batches)})
    update.set_loss()
    trainer.clear_gradients()
    if guards.left_out() >= PATIENCE:
        raise FinetuneError(
            f"the last {PATIENCE} updates gave no numbers, up to step {trainer.state.global_step + 1}",
            f"look at nonfinite.jsonl in the run directory; or train anew in another output_dir with {LOWER}",
        )
    if trainer.accelerator.scaler is None:
        return torch.zeros((), device=trainer.args.device)
    for parameter in trainer.model.parameters():  # the scaler must see a gradient, and leaves this one out
        parameter.grad = torch.full_like(parameter, float("inf")) if parameter.requires_grad else None
    return None


def _uncount(trainer: Guarded, left_out: list[dict[str, Any]]) -> None:
    """Trained tokens of these inputs, and of those of the other processes, were not learned from."""
    trainer.trained_seen -= trainer.processes.total(sum(trainer.trained(inputs) for inputs in left_out))


def _faulty(update: Update) -> Faulty:
    """The units that alone give no numbers."""
    found = {at: _bisected(update, micro, micro.units) for at, micro in enumerate(update.micro_batches)}
    return {at: units for at, units in found.items() if units}


def _bisected(update: Update, micro: MicroBatch, units: Sequence[int]) -> list[int]:
    if update.passes(micro, units):
        return []
    if len(units) == 1:
        return list(units)
    middle = len(units) // 2
    return _bisected(update, micro, units[:middle]) + _bisected(update, micro, units[middle:])


def _all(update: Update, faulty: Faulty) -> bool:
    """Whether no unit of the update is left, in any process."""
    every = sum(map(len, faulty.values())) == sum(len(micro.units) for micro in update.micro_batches)
    return update.trainer.processes.all(every)


def _what(update: Update, norm: torch.Tensor | None) -> str:
    losses = update.trainer.processes.gather([float(micro.loss) for micro in update.micro_batches])
    total = sum(map(sum, losses))
    return f"the loss is {total}" if not torch.isfinite(torch.tensor(total)) else f"the norm of the gradient is {norm}"


def _stopped(trainer: Guarded, what: str, places: list[str], *, alone: bool) -> FinetuneError:
    rows = f"from {_listed(places)}" if places else "from no row alone"
    rows += "" if alone else ", which is every row of the update"
    return FinetuneError(
        f"{what} at step {trainer.state.global_step + 1}, {rows}: the update was not taken, and the last checkpoint is "
        "good",
        f"look at {'these rows' if places else 'the rows in nonfinite.jsonl'}; training.on_nonfinite=skip goes on "
        f"without them; or train anew in another output_dir with {LOWER}",
    )


def _lost(trainer: Guarded) -> FinetuneError:
    return FinetuneError(
        f"the loss is nan at step {trainer.state.global_step + 1}: the adapter holds no numbers any more",
        f"the last checkpoint is good; train anew in another output_dir with {LOWER}",
    )


def _listed(places: list[str], most: int = 5) -> str:
    return ", ".join(places[:most]) + (f" and {len(places) - most:,} more" if len(places) > most else "")
