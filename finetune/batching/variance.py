"""How far the gradient of a batch scatters around that of all examples: measured, and by theory."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np

from finetune.batching.descent import with_replacement, without_replacement

CHUNK = 2**17
"""Numbers gathered at once, so that memory stays small whatever the batch."""


@dataclass(frozen=True)
class Variance:
    """E |g_B - g|² over draws of a batch, and what theory says it is."""

    batch: int
    replacement: bool
    measured: float
    theory: float

    @property
    def ratio(self) -> float:
        """Measured over theory."""
        return self.measured / self.theory


def example_variance(gradients: np.ndarray) -> float:
    """σ²: the trace of the covariance of one example's gradient, over n, from all of them (n, d)."""
    return float(gradients.var(0).sum())


def theoretical_variance(gradients: np.ndarray, batch: int, replacement: bool) -> float:
    """σ²/b with replacement, and σ²/b · (n - b) / (n - 1) without: nothing is left to chance at b = n."""
    n = len(gradients)
    factor = 1.0 if replacement else (n - batch) / (n - 1)
    return example_variance(gradients) / batch * factor


def measured_variance(
    gradients: np.ndarray, batch: int, replacement: bool, draws: int, rng: np.random.Generator
) -> float:
    """Mean of |g_B - g|² over at least `draws` batches, drawn as the descents draw them: by epochs without
    replacement."""
    n = len(gradients)
    centred = gradients - gradients.mean(0)
    each = 1 if replacement else n // batch  # batches that a row of runs gives before it is shuffled again
    runs = max(1, CHUNK // (batch * centred.shape[1]))
    batches = (with_replacement if replacement else without_replacement)(rng, n, batch, runs)
    number = -(-draws // (runs * each)) * each
    return float(np.mean([np.square(centred.take(rows, 0).mean(1)).sum(1) for rows in islice(batches, number)]))
