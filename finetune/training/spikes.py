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

DEVIATIONS = 8.0
"""Median absolute deviations above the median. Of normal noise that is 5.4 standard deviations, one line in 3e7; losses
of updates have a longer tail than that, which this leaves room for."""

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
