"""Optimiser updates of an epoch and of a run, counted as the trainer counts them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetune.config import TrainingConfig
from finetune.errors import ConfigError


@dataclass(frozen=True)
class Updates:
    """Numbers of updates. `examples` are rows, or packs; `last` those of the last update of an epoch, fewer than
    `effective_batch_size` where it does not divide them. `per_epoch`, `last` and `epochs` are None where the number of
    examples is unknown; then only `training.max_steps` says how long the run is."""

    examples: int | None
    effective_batch_size: int
    per_epoch: int | None
    last: int | None
    total: int
    warmup: int
    epochs: float | None


def count_updates(training: TrainingConfig, examples: int | None) -> Updates | None:
    """Updates of a run over `examples` rows (or packs); None where neither they nor `max_steps` are known.

    A last partial batch makes an update too, in every epoch; warm-up is rounded up.
    """
    size, per_epoch, last = training.effective_batch_size, None, None
    if examples is not None:
        micro_batches = math.ceil(examples / training.micro_batch_size)
        per_epoch = math.ceil(micro_batches / training.gradient_accumulation_steps)
        last = examples - (per_epoch - 1) * size
    elif not training.max_steps:
        return None
    total = training.max_steps or math.ceil(training.epochs * per_epoch)
    warmup = math.ceil(total * training.warmup_ratio) if training.warms_up else 0
    epochs = total / per_epoch if per_epoch else None
    return Updates(examples, size, per_epoch, last, total, warmup, epochs)


def require_enough(training: TrainingConfig, examples: int) -> None:
    """Raises ConfigError where one update would take more examples than there are."""
    size, most = training.effective_batch_size, examples // training.micro_batch_size
    if size > examples:
        fewer = f"training.gradient_accumulation_steps={most} is the most"
        raise ConfigError(
            f"the effective batch of {training.micro_batch_size} x {training.gradient_accumulation_steps} = {size:,} "
            f"is more than the {examples:,} training examples: no update would be full",
            f"{fewer if most else f'lower training.micro_batch_size to {examples} at most'}; or name more rows",
        )
