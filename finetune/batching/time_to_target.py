"""Updates and examples to a target loss against the batch size (McCandlish et al. 2018, arXiv:1812.06162).

At each batch the step size is the best of a grid. Where gradients are as noisy as their noise scale B says, a run of
batch b takes u_min (1 + B / b) updates, which is e_min (1 + b / B) examples with e_min = B u_min: both within a factor
of two of their least at b = B, the knee.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls

from finetune.batching.digits import noise_scales, orders, regression, train, whole_loss

TARGET = 0.2
SEEDS = 8
BATCHES = tuple(2**power for power in range(11))
RATES = tuple(0.08 * 2 ** (power / 2) for power in range(1, 16))
LOOK = 1.05
"""The loss is looked at whenever updates have grown by this factor: runs are compared to within 5 %."""


@dataclass(frozen=True)
class Reached:
    """Batch `batch` at `rate`, the best step of the grid; `updates` to the target, mean over seeds, and its spread;
    `noise_scale` along these runs, in examples."""

    batch: int
    rate: float
    updates: float
    spread: float
    noise_scale: float

    @property
    def examples(self) -> float:
        """Examples to the target."""
        return self.updates * self.batch


@dataclass(frozen=True)
class Knee:
    """The fit: `fewest` updates, and the noise scale `batch` in examples."""

    fewest: float
    batch: float

    def updates(self, batch: float) -> float:
        """u_min (1 + B / b)."""
        return self.fewest * (1 + self.batch / batch)


def time_to_target(batch: int, rates: Sequence[float] = RATES, target: float = TARGET, seeds: int = SEEDS) -> Reached:
    """The step size with which all seeds are first at the target, and when they are there."""
    rows, first, look = orders(seeds, 40_000 + 200 * batch), None, 1.0
    for update, weights in enumerate(train(regression(seeds), rows, batch, rates), 1):
        if update < look:
            continue
        look = max(update + 1, update * LOOK)
        there = whole_loss(weights) < target
        first = torch.full(there.shape, torch.inf) if first is None else first
        first[there & first.isinf()] = update
        if first.isfinite().all(1).any():
            break
    best = int(first.amax(1).argmin())
    noise = noise_along(batch, rates[best], int(first[best].max()), seeds)
    return Reached(batch, rates[best], float(first[best].mean()), float(first[best].std(correction=0)), noise)


def noise_along(batch: int, rate: float, updates: int, seeds: int = SEEDS) -> float:
    """Exact noise scale along a run, its mean over updates.

    Updates with exact gradients, of which each is worth 1 + B / b noisy ones, add up to u_min + sum B / b: the mean of
    B is what the fit finds.
    """
    every, found = max(1, updates // 50), [noise_scales(regression(seeds))]
    for update, weights in enumerate(train(regression(seeds), orders(seeds, batch * updates), batch, [rate]), 1):
        if update % every == 0:
            found.append(noise_scales(weights))
    return float(torch.stack(found).mean())


def fitted_knee(found: Sequence[Reached]) -> Knee:
    """u_min (1 + B / b) by least squares of relative errors; neither is negative."""
    batches, updates = np.array([[run.batch, run.updates] for run in found]).T
    (fewest, slope), _ = nnls(np.stack([1 / updates, 1 / (batches * updates)], 1), np.ones(len(found)))
    return Knee(float(fewest), float(slope / fewest) if fewest else math.inf)
