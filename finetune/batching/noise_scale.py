"""Gradient noise scale: how large a batch may grow before a larger one gains little (McCandlish et al. 2018,
arXiv:1812.06162).

The gradient of one example scatters around the mean gradient G with covariance Σ. A mean of B examples is as much
noise as signal at B = tr Σ / |G|², the simple noise scale. To come equally far takes 1 + tr Σ / (B |G|²) times the
updates of exact gradients, and 1 + B |G|² / tr Σ times the examples of single ones.
"""

from __future__ import annotations

import math

import torch
from scipy.special import stdtrit

from finetune.batching.suggestion import NoiseScale

CERTAINTY = 0.95
"""Of the interval."""


def exact_noise_scale(gradients: torch.Tensor) -> float:
    """tr Σ / |G|² of a whole data set, from the gradient of every example (examples, parameters).

    Σ is the covariance of one example drawn at random, over n and not n - 1.
    """
    mean = gradients.mean(0)
    signal = mean.square().sum()
    return float((gradients.square().sum(1).mean() - signal) / signal)


def unbiased_pair(
    counts: torch.Tensor, small_squares: torch.Tensor, big_square: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unbiased estimates of tr Σ and |G|² of one update, from gradients that the update computes anyway.

    Its k micro batches have `counts` (k) examples, whose mean gradients have squared norms `small_squares` (k); the
    gradient of all together has `big_square`. With n_i examples of N, E |g_i|² = |G|² + tr Σ / n_i, and
    E |g|² = |G|² + tr Σ / N; the mean of |g_i|² with weights n_i / N has tr Σ k / N. (McCandlish et al., appendix A.1,
    there for equal n_i.) Both are NaN where k is 1.
    """
    total, number = counts.sum(), counts.numel()
    if number < 2:
        nothing = torch.full_like(big_square, math.nan)
        return nothing, nothing
    small_square = (counts * small_squares).sum() / total
    noise = (small_square - big_square) * total / (number - 1)
    return noise, big_square - noise / total


class NoiseScaleAverage:
    """Ratio of moving averages of tr Σ and |G|²: a mean of ratios would be biased, and has no finite variance.

    Weights fall by `decay` with every update. Sums stay on the device of what is added, so that adding never waits.
    """

    def __init__(self, decay: float = 0.98) -> None:
        self.decay = decay
        self.sums = torch.zeros(7, dtype=torch.float64)
        """Weighted sums of 1, s, g, s², g², s g, and the sum of squared weights, for s = tr Σ and g = |G|²."""

    def add(self, noise: torch.Tensor, signal: torch.Tensor) -> None:
        """Adds the estimates of one update (scalars on any device); what is not finite is left out."""
        s, g = noise.double(), signal.double()
        one = torch.ones_like(s)
        new = torch.stack([one, s, g, s * s, g * g, s * g, one])
        decay = torch.full_like(new, self.decay)
        decay[-1] = self.decay**2
        sums = self.sums.to(new.device)
        self.sums = torch.where(torch.isfinite(new).all(), sums * decay + new, sums)

    def estimate(self) -> NoiseScale | None:
        """The ratio and Fieller's interval for it (Fieller 1954), None before the second update."""
        weight, s, g, ss, gg, sg, squares = self.sums.tolist()
        effective = weight * weight / squares if squares else 0.0
        if effective <= 1.0 + 1e-9:
            return None
        s, g, ss, gg, sg = (value / weight for value in (s, g, ss, gg, sg))
        each = 1 / (effective - 1)  # variance of a mean from the spread around it
        # Student's t: two or three updates know little of their own spread.
        quantile = float(stdtrit(effective - 1, (1 + CERTAINTY) / 2))
        moments = s, g, (ss - s * s) * each, (gg - g * g) * each, (sg - s * g) * each
        return NoiseScale(*_fieller(*moments, quantile), effective)


def _fieller(s: float, g: float, var_s: float, var_g: float, cov: float, quantile: float) -> tuple[float, float, float]:
    """Ratio s / g with all r >= 0 for which s - r g is within `quantile` of its own standard deviations of zero:
    a r² - 2 b r + c <= 0."""
    value = max(s / g, 0.0) if g > 0 else math.inf
    square = quantile**2
    a, b, c = g * g - square * var_g, s * g - square * cov, s * s - square * var_s
    root = math.sqrt(max(b * b - a * c, 0.0))
    if a > 0 and g > 0:
        return value, max((b - root) / a, 0.0), max((b + root) / a, 0.0)
    # |G|² is not told apart from zero: nothing bounds the ratio from above.
    low = (b - root) / a if a < 0 and b * b > a * c else 0.0
    return value, max(low, 0.0), math.inf
