"""Learning rate with batch size: where a rule's assumptions do not hold for a run (docs/fundamentals/batch-size.md).

Linear: Goyal et al. 2017 (arXiv:1706.02677), for SGD. Square root: Malladi et al. 2022 (arXiv:2205.10287), for Adam.
`RunSpec.learning_rate` applies them.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune.batching.updates import Updates
from finetune.config import TrainingConfig

FEW_UPDATES = 100
"""Updates below which a run is short: in `finetune lab batch` the rules lag behind there."""
RULE_OF = {"sgd": "linear"}
"""The rule of each optimiser; Adam's is the square root."""


@dataclass(frozen=True)
class Doubt:
    """Why a setting may not do what it is for, and `change`: keys and values that would mend it, where some would."""

    why: str
    change: str = ""


def scaling_doubts(training: TrainingConfig, updates: Updates | None, noise_scale: float | None = None) -> list[Doubt]:
    """What is doubtful about batch and learning rate. `noise_scale` is that of an earlier run, in examples."""
    doubts = [_other_rule(training), _no_warmup(training), _all_warmup(updates), _few_updates(training, updates)]
    doubts += [_beyond_noise(training, noise_scale), _partial(updates)]
    return [doubt for doubt in doubts if doubt]


def scaling_ratio(training: TrainingConfig) -> float:
    """Effective batch over the one that the learning rate was chosen for; 1 where none is named."""
    reference = training.reference_batch_size
    return training.effective_batch_size / reference if reference else 1.0


def _other_rule(training: TrainingConfig) -> Doubt | None:
    rule = RULE_OF.get(training.optimizer, "sqrt")
    ratio = scaling_ratio(training)
    if training.lr_scaling in ("none", rule) or ratio == 1:
        return None
    effect = "too large a step" if (training.lr_scaling == "linear") == (ratio > 1) else "too small a step"
    why = (
        f"training.lr_scaling={training.lr_scaling} is not the rule of {training.optimizer}: "
        f"over a factor of {ratio:g} in batch it makes {effect}"
    )
    return Doubt(why, f"training.lr_scaling={rule}")


def _no_warmup(training: TrainingConfig) -> Doubt | None:
    if training.lr_scaling == "none" or scaling_ratio(training) <= 1 or training.warms_up:
        return None
    scheduler = "training.lr_scheduler=constant_with_warmup " if training.lr_scheduler == "constant" else ""
    return Doubt(
        "a learning rate that was scaled up may be too high for the first updates, where the loss is steepest",
        f"{scheduler}training.warmup_ratio=0.05",
    )


def _all_warmup(updates: Updates | None) -> Doubt | None:
    """transformers' schedules begin at zero: the first update of a warm-up changes nothing."""
    if updates is None or not updates.warmup or updates.total > updates.warmup + 1:
        return None
    return Doubt(
        f"{updates.warmup:,} of {updates.total:,} updates are warm-up, whose first has a learning rate of zero",
        "training.warmup_ratio=0",
    )


def _few_updates(training: TrainingConfig, updates: Updates | None) -> Doubt | None:
    if updates is None or updates.total >= FEW_UPDATES:
        return None
    smaller = _divisor(training.gradient_accumulation_steps, FEW_UPDATES / updates.total)
    change = f"training.gradient_accumulation_steps={smaller}" if smaller else ""
    return Doubt(
        f"the run has {updates.total:,} updates: below {FEW_UPDATES} no rule makes up for updates that are not made",
        change,
    )


def _divisor(passes: int, fewer: float) -> int | None:
    """The largest divisor of `passes` that is at least `fewer` times smaller; 1 where none is, None for one pass."""
    found = (part for part in range(passes - 1, 0, -1) if passes % part == 0 and passes / part >= fewer)
    return next(found, 1 if passes > 1 else None)


def _beyond_noise(training: TrainingConfig, noise_scale: float | None) -> Doubt | None:
    size = training.effective_batch_size
    if noise_scale is None or size <= noise_scale:
        return None
    nearest = max(1, round(noise_scale / training.micro_batch_size))
    fewer = 1 - (1 + noise_scale / (2 * size)) / (1 + noise_scale / size)
    return Doubt(
        f"the effective batch of {size:,} is beyond the noise scale of {noise_scale:,.0f}: the gradient is signal, not "
        f"noise, no rule for the learning rate holds, and twice the batch would save only {fewer:.0%} of the updates",
        f"training.gradient_accumulation_steps={nearest}" if nearest != training.gradient_accumulation_steps else "",
    )


def _partial(updates: Updates | None) -> Doubt | None:
    if updates is None or updates.last is None or 2 * updates.last > updates.effective_batch_size:
        return None
    times = updates.effective_batch_size / updates.last
    return Doubt(
        f"the last update of each epoch has {updates.last:,} of {updates.effective_batch_size:,} examples: each of "
        f"them weighs {times:.3g} times as much as the others"
    )
