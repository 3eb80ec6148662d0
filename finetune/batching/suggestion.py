"""What a measured gradient noise scale suggests for the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class NoiseScale:
    """An estimate with its 95 % interval, in examples; `high` is infinite, and so may `value` be, where |G|² is not
    told apart from zero. `updates` is the number of updates that it rests on, older ones weighing less."""

    value: float
    low: float
    high: float
    updates: float


def noise_words(noise: NoiseScale, effective_batch_size: int, micro_batch_size: int) -> str:
    """What a noise scale suggests for a batch, in a sentence: at batch b a run takes 1 + B / b times the fewest updates
    and 1 + b / B times the fewest examples."""
    if math.isinf(noise.value):
        return "the gradient is not told apart from noise: a larger batch, or a lower learning rate"
    size, scale = effective_batch_size, max(noise.value, 1.0)
    nearest = max(1, round(scale / micro_batch_size)) * micro_batch_size
    costs = f"{1 + scale / size:.3g} times the fewest updates and {1 + size / scale:.3g} times the fewest rows"
    if noise.low <= size <= noise.high:
        return f"the effective batch of {size:,} is as large as the noise scale, within its error: {costs}"
    way = "a larger batch still saves updates" if size < noise.low else "a smaller batch would save rows"
    return (
        f"about {nearest:,} in place of {size:,}: {way}; as it was, {costs}; at the noise scale, 2 of both. "
        "So it is at this learning rate: too small a one makes the noise scale larger"
    )
