"""From a verdict and the size of the data to a plan."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.batching import Doubt, require_enough, scaling_doubts
from finetune.config import TrainingConfig
from finetune.errors import ConfigError
from finetune.plan.attention import attention_doubts, attention_share
from finetune.plan.plan import Plan, Tokens
from finetune.preflight import Verdict, larger_micro_batch

SPARSE = 0.5
"""Mean over longest row below which most of a padded micro batch may be padding."""
FULL_TOKENS = 4096
"""Tokens in a pass up to which a card's utilisation still rises (the table in preflight/duration.py)."""


@dataclass(frozen=True)
class DataSize:
    """What was counted in data that was read: examples (rows or packs), tokens without padding, trained ones, the
    longest example's, and those of each row before packing."""

    examples: int
    tokens: int
    trained_tokens: int
    longest: int
    lengths: tuple[int, ...] = ()


def require_sense(training: TrainingConfig, examples: int | None, noise_scale: float | None) -> None:
    """Raises ConfigError where an update takes more examples than there are, and for a noise scale that is none."""
    if examples is not None and examples < 1:
        raise ConfigError(f"--examples {examples}: there is nothing to train on", "name the number of training rows")
    if examples is not None:
        require_enough(training, examples)
    if noise_scale is not None and noise_scale <= 0:
        raise ConfigError(f"--noise-scale {noise_scale:g} is not above zero", "an earlier run's report has it, in rows")


def make_plan(verdict: Verdict, *, data: DataSize | None = None, noise_scale: float | None = None) -> Plan:
    """The plan of a run that `verdict` is about. `noise_scale` was measured by an earlier run, in examples. Raises what
    `require_sense` raises."""
    training, updates = verdict.spec.config.training, verdict.updates
    require_sense(training, updates.examples if updates else None, noise_scale)
    doubts = scaling_doubts(training, updates, noise_scale)
    doubts += [doubt for doubt in (_fuller_card(verdict), _padding(verdict, data), _length(verdict, data)) if doubt]
    attention = attention_share(verdict, data.lengths if data else None)
    return Plan(verdict, _tokens(verdict, data), attention, doubts + attention_doubts(verdict, attention))


def _tokens(verdict: Verdict, data: DataSize | None) -> Tokens:
    """Rows of `max_length` where the data was not read: padding is counted as if it were text."""
    config, updates = verdict.spec.config, verdict.updates
    data = None if config.training.online else data  # how long completions will be stands in no data
    rows = 2 if config.training.method == "dpo" else 1
    each = data.tokens / data.examples if data else rows * config.data.max_length
    per_update = round(each * config.training.effective_batch_size)
    if updates is None or updates.examples is None:
        return Tokens(data is not None, per_update, None, None)
    per_epoch = round(each * updates.examples)
    return Tokens(data is not None, per_update, per_epoch, round(per_epoch * updates.epochs))


def _fuller_card(verdict: Verdict) -> Doubt | None:
    """More rows at once, where they fit and a pass is small: the same updates, in fewer and larger products."""
    training, batch = verdict.spec.config.training, verdict.batch
    small = batch.rows * batch.tokens < FULL_TOKENS and training.gradient_accumulation_steps > 1
    found = larger_micro_batch(verdict.spec) if small and verdict.fits and verdict.spec.device.kind == "cuda" else None
    if found is None:
        return None
    rows, process = found
    return Doubt(
        f"a pass over {batch.rows * batch.tokens:,} tokens leaves a card waiting; {rows} rows at once fit too "
        f"({process / 2**30:.2f} GiB), and the updates stay the same",
        f"training.micro_batch_size={rows} "
        f"training.gradient_accumulation_steps={training.effective_batch_size // rows}",
    )


def _padding(verdict: Verdict, data: DataSize | None) -> Doubt | None:
    config, training = verdict.spec.config.data, verdict.spec.config.training
    if data is None or config.packing or training.micro_batch_size == 1 or training.method != "sft":
        return None
    full = data.tokens / data.examples / data.longest
    if full >= SPARSE:
        return None
    return Doubt(
        f"rows have {data.tokens / data.examples:,.0f} tokens in the mean and {data.longest:,} at most: up to "
        f"{1 - full:.0%} of a micro batch is padding",
        "data.packing=true",
    )


def _length(verdict: Verdict, data: DataSize | None) -> Doubt | None:
    config = verdict.spec.config
    longest, allowed = (data.longest, config.data.max_length) if data else (0, 0)
    if not data or config.data.packing or config.training.online or 2 * longest > allowed:
        return None
    return Doubt(
        f"the longest row has {longest:,} tokens, data.max_length is {allowed:,}: a shorter one loses nothing, and "
        "without --data it is what a preflight prices",
        f"data.max_length={-(-longest // 64) * 64}",
    )
