"""What `finetune lab descent` measures of variance, rates and floors: plain figures, and curves to draw."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from finetune.batching import rates
from finetune.batching.descent import (
    constant,
    decaying,
    gaps_at,
    gradient_descent,
    stochastic_gradient_descent,
    with_replacement,
    without_replacement,
)
from finetune.batching.problems import Problem, Ridge
from finetune.batching.variance import Variance, measured_variance, theoretical_variance

SEED = 0
TARGETS = (1e-1, 1e-2, 1e-4, 1e-6)
"""Gaps to reach, relative to the first."""
VARIANCE_BATCHES = (1, 8, 64, 512)
FLOOR_STEPS, FLOOR_BATCHES, FLOOR_SEEDS = (0.04, 0.02, 0.01), (1, 4, 16), 32
DECAY_SEEDS, DECAY_UPDATES = 64, 200_000


@dataclass(frozen=True)
class Curve:
    """A gap (points) against updates or epochs (points)."""

    at: np.ndarray
    gaps: np.ndarray


def variances(problem: Problem) -> dict[str, list[Variance]]:
    """Gradient variance at the start and at the optimum, for each batch with and without replacement."""
    rng = np.random.default_rng([SEED, 1])
    points = {"start": problem.gradients(problem.start), "optimum": problem.gradients(problem.optimum)}
    return {
        point: [
            Variance(
                batch,
                replacement,
                measured_variance(gradients, batch, replacement, max(10_000, 400_000 // batch), rng),
                theoretical_variance(gradients, batch, replacement),
            )
            for batch in VARIANCE_BATCHES
            for replacement in (True, False)
        ]
        for point, gradients in points.items()
    }


def contraction(problem: Problem) -> dict[str, Any]:
    """What a step 1/L of gradient descent leaves of the gap and of the distance to the optimum, at worst and typically.

    Gaps count down to 1e-10 of the first and distances to 1e-6: below, rounding rules.
    """
    mu, smoothness = problem.extremes
    points = np.array(list(islice(gradient_descent(problem, problem.start, constant(1 / smoothness)), 4000)))
    gaps = problem.gap(points)
    of_gap = rates.contractions(gaps, 1e-10)
    of_distance = rates.contractions(np.linalg.norm(points - problem.optimum, axis=1), 1e-6)
    return {
        "bound": 1 - mu / smoothness, "gap_steps": len(of_gap), "distance_steps": len(of_distance),
        "gap_worst": float(of_gap.max()), "gap_median": float(np.median(of_gap)),
        "distance_worst": float(of_distance.max()), "distance_median": float(np.median(of_distance)),
        "epochs": [min(reached)[0] for reached in rates.first_reached(gaps[:, None] / gaps[0], TARGETS)],
    }  # fmt: skip


def decay(problem: Problem) -> tuple[dict[str, float], Curve]:
    """SGD with single examples and the step 2 / (μ (k + γ)), which begins at 0.1/L: the exponent and the constant of
    its gap, and the mean gap over seeds against k + γ."""
    mu, smoothness = problem.extremes
    step = 0.1 / smoothness
    shift = 2 / (mu * step)
    k = np.unique(np.geomspace(DECAY_UPDATES / 10, DECAY_UPDATES, 60).round().astype(int))
    batches = with_replacement(np.random.default_rng([SEED, 2]), problem.n, 1, DECAY_SEEDS)
    points = stochastic_gradient_descent(problem, runs_from(problem.start, DECAY_SEEDS), decaying(step, mu), batches)
    gaps = gaps_at(problem, points, k.tolist())
    exponent, half_width = rates.fitted_exponent(k + shift, gaps)
    limit = rates.decaying_limit(problem, mu)
    numbers = {
        "exponent": exponent, "half_width": half_width, "shift": shift, "limit": limit,
        "of_limit": float((gaps.mean(1) * (k + shift)).mean() / limit),
    }  # fmt: skip
    return numbers, Curve(k + shift, gaps.mean(1))


def floors(problem: Ridge) -> list[dict[str, float]]:
    """Mean gap that constant steps end with on ridge, for each step and batch, beside theory's."""
    steps = np.repeat(FLOOR_STEPS, FLOOR_SEEDS)[:, None]
    begin = runs_from(problem.optimum, len(steps))
    rows = []
    for batch in FLOOR_BATCHES:
        measured = []
        for drawn in (with_replacement, without_replacement):
            batches = drawn(np.random.default_rng([SEED, 3]), problem.n, batch, len(steps))
            points = stochastic_gradient_descent(problem, begin, constant(steps), batches)
            gaps = gaps_at(problem, points, range(4000, 20_001, 40))
            measured.append(gaps.mean(0).reshape(len(FLOOR_STEPS), FLOOR_SEEDS).mean(1))
        rows += [
            {
                "step": step, "batch": batch, "measured": float(drawn),
                "exact": rates.exact_floor(problem, step, batch),
                "first_order": rates.first_order_floor(problem, step, batch), "shuffled": float(shuffled),
            }
            for step, drawn, shuffled in zip(FLOOR_STEPS, *measured, strict=True)
        ]  # fmt: skip
    return rows


def runs_from(w: np.ndarray, runs: int) -> np.ndarray:
    """The same point for every run: (runs, d)."""
    return np.tile(w, (runs, 1))
