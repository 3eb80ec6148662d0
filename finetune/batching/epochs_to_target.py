"""Epochs and seconds that each method takes to a relative gap, with the step that is best for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from finetune.batching import rates
from finetune.batching.descent import (
    Schedule,
    constant,
    decaying,
    gaps_at,
    gradient_descent,
    stochastic_gradient_descent,
    without_replacement,
)
from finetune.batching.descent_measures import SEED, TARGETS, Curve, runs_from
from finetune.batching.problems import Problem

EPOCHS, SEEDS = 500, 12


@dataclass(frozen=True)
class Method:
    """A way to descend: the batch (None for all examples), the steps to choose from, whether they decay."""

    name: str
    batch: int | None
    powers: range
    decays: bool = False

    @property
    def grid(self) -> np.ndarray:
        """Steps in units of 1/L: the square root of two times powers of two."""
        return 2.0 ** (np.array(self.powers) + 0.5)


METHODS = [
    Method("gradient descent", None, range(-2, 5)),
    Method("SGD, b = 1", 1, range(-10, 0)),
    Method("SGD, b = 1, decaying", 1, range(-10, 0), decays=True),
    Method("mini-batch, b = 8", 8, range(-8, 3)),
    Method("mini-batch, b = 32", 32, range(-6, 5)),
    Method("mini-batch, b = 128", 128, range(-4, 5)),
]


def epochs_to_targets(problem: Problem, method: Method) -> tuple[dict[str, list[float | None]], Curve]:
    """Epochs to each target with the method's best step for it, these steps (times L), and the curve of the step that
    is best for the second target. A target is reached when the mean over seeds is."""
    updates, seeds = looks(problem.n, method.batch or problem.n), SEEDS if method.batch else 1
    epochs = updates * (method.batch or problem.n) / problem.n  # n examples are an epoch, whatever a shuffle leaves out
    with np.errstate(over="ignore", invalid="ignore"):  # steps too large for the problem diverge
        gaps = gaps_at(problem, descent(problem, method, seeds), updates.tolist()) / problem.gap(problem.start)
        gaps = gaps.reshape(len(updates), -1, seeds).mean(2)
    best = [min(reached, default=None) for reached in rates.first_reached(gaps, TARGETS)]
    numbers = {
        "epochs": [at and figures(epochs[at[0]]) for at in best],
        "steps": [at and figures(method.grid[at[1]]) for at in best],
    }
    return numbers, Curve(epochs, gaps[:, best[1][1]])


def looks(n: int, batch: int) -> np.ndarray:
    """Updates after which gaps are looked at: ever more rarely within the first epoch, then at the end of each.

    What chance adds within a shuffled epoch it nearly takes back by its end, where one would stop.
    """
    each = n // batch
    within = np.geomspace(1, each, 1 + int(60 * np.log10(each)))
    return np.unique(np.concatenate([within.round(), each * np.arange(1, EPOCHS + 1)]).astype(int))


def figures(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")


def descent(problem: Problem, method: Method, seeds: int) -> Iterator[np.ndarray]:
    """The points of a method for each of its steps, `seeds` runs each."""
    mu, smoothness = problem.extremes
    steps = np.repeat(method.grid / smoothness, seeds)[:, None]
    schedule = decaying(steps, mu) if method.decays else constant(steps)
    return points_of(problem, method, schedule, runs_from(problem.start, len(steps)))


def points_of(problem: Problem, method: Method, schedule: Schedule, w: np.ndarray) -> Iterator[np.ndarray]:
    """The points of a method, shuffled anew every epoch, from w (runs, d)."""
    if method.batch is None:
        return gradient_descent(problem, w, schedule)
    batches = without_replacement(np.random.default_rng([SEED, 4]), problem.n, method.batch, len(w))
    return stochastic_gradient_descent(problem, w, schedule, batches)


def epoch_seconds(problem: Problem, method: Method) -> float:
    """Wall-clock seconds of one epoch of a single run, as measured here and now: the fastest of five."""
    updates = max(1, problem.n // method.batch) if method.batch else 1
    repeats = 1 if method.batch == 1 else 50
    points = points_of(problem, method, constant(1e-4), runs_from(problem.start, 1))
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in islice(points, updates * repeats):
            pass
        best = min(best, time.perf_counter() - began)
    return best / repeats
