"""Losses that stand out of those before them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

WINDOW = 50
"""Logged losses that one is compared with: enough for a steady median, few enough to follow a loss that falls."""

LEAST = 20
"""Losses before the first one can stand out: of fewer the spread is a guess, and the loss falls fastest."""

DEVIATIONS = 10.0
"""Median absolute deviations above the median: 6.7 standard deviations of normal noise, one line in 1e11. Losses have a
longer tail than that: where they differ by a lognormal factor of 1.35, as of very small batches, it is one in 1e4."""

FLOOR = 0.02
"""Least spread, as a share of the median: where losses hardly differ any two of them would stand out."""


class Spikes:
    """Median and spread of the last losses; neither is moved by a spike, as mean and deviation would be."""

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self.losses = deque(losses, WINDOW)

    def limit(self) -> float:
        """The loss above which one stands out; infinite while too few are known."""
        if len(self.losses) < LEAST:
            return math.inf
        middle = median(self.losses)
        spread = median(abs(loss - middle) for loss in self.losses)
        return middle + max(DEVIATIONS * spread, FLOOR * DEVIATIONS * abs(middle))

    def add(self, loss: float) -> bool:
        """Whether a loss stands out of those before it; it is one of them from then on."""
        found = loss > self.limit()
        if math.isfinite(loss):
            self.losses.append(loss)
        return found
