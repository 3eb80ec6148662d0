"""Gradient descent in its three forms, as streams of points, for many runs at once.

A run is a row: points are (runs, d), a step size is a number or a column with one for each run (runs, 1). Full batch,
single examples (b = 1) and mini-batches differ in the rows that the gradient is averaged over, and in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count

import numpy as np

from finetune.batching.problems import Problem

StepSize = float | np.ndarray
Schedule = Callable[[int], StepSize]
"""The step size of update k, counted from 0."""


def constant(step: StepSize) -> Schedule:
    """The same step size throughout."""
    return lambda update: step


def decaying(step: StepSize, mu: float) -> Schedule:
    """From `step` at first to 2 / (μ k) in the end: step / (1 + step μ k / 2)."""
    return lambda update: step / (1 + step * mu * update / 2)


def with_replacement(rng: np.random.Generator, n: int, batch: int, runs: int) -> Iterator[np.ndarray]:
    """Batches (runs, batch) of examples drawn each from all n, without end."""
    while True:
        yield rng.integers(n, size=(runs, batch))


def without_replacement(rng: np.random.Generator, n: int, batch: int, runs: int) -> Iterator[np.ndarray]:
    """Batches that take no example twice in an epoch, shuffled anew for each; what fills no batch is left out of it."""
    rows = np.tile(np.arange(n), (runs, 1))
    while True:
        rows = rng.permuted(rows, axis=1)
        for first in range(0, n - batch + 1, batch):
            yield rows[:, first : first + batch]


def gradient_descent(problem: Problem, w: np.ndarray, step: Schedule) -> Iterator[np.ndarray]:
    """The start w, then the point after each update with the gradient of all examples."""
    for update in count():
        yield w
        w = w - step(update) * problem.gradient(w)


def stochastic_gradient_descent(
    problem: Problem, w: np.ndarray, step: Schedule, batches: Iterator[np.ndarray]
) -> Iterator[np.ndarray]:
    """The start w (runs, d), then the point after each update with the gradient of the next batch."""
    for update, rows in enumerate(batches):
        yield w
        w = w - step(update) * problem.batch_gradient(w, rows)


def gaps_at(problem: Problem, points: Iterator[np.ndarray], updates: Sequence[int]) -> np.ndarray:
    """f(w) - f(w*) after the named numbers of updates, in rising order: (updates, runs)."""
    wanted = set(updates)
    kept = []
    for update, w in zip(range(max(updates) + 1), points, strict=False):
        if update in wanted:
            kept.append(problem.gap(w))
    return np.array(kept)
