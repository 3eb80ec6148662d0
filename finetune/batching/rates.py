"""How fast the descents come near the optimum: what theory says, and how it is read off measured gaps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from finetune.batching.problems import Problem, Ridge

Z95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


def contractions(sizes: np.ndarray, until: float) -> np.ndarray:
    """What each step leaves of a positive quantity (steps), while it is above `until` of its first value."""
    steps = int(np.argmax(sizes < until * sizes[0])) or len(sizes)
    return sizes[1:steps] / sizes[: steps - 1]


def fitted_exponent(k: np.ndarray, gaps: np.ndarray) -> tuple[float, float]:
    """p of mean gap ~ k^p, by least squares of the logarithms, and half its 95 % interval.

    `gaps` (points, seeds) belong to `k` (points). The points of a run depend on each other, the seeds do not: the
    interval is the jackknife's over seeds.
    """
    seeds = gaps.shape[1]
    without_one = (gaps.sum(1, keepdims=True) - gaps) / (seeds - 1)
    slopes = np.polyfit(np.log(k), np.log(without_one), 1)[0]
    slope = np.polyfit(np.log(k), np.log(gaps.mean(1)), 1)[0]
    return float(slope), Z95 * math.sqrt((seeds - 1) / seeds * np.square(slopes - slopes.mean()).sum())


def noise_in_eigenbasis(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues h of the Hessian at w*, and the variance c there of one example's gradient along each: (d), (d)."""
    h, vectors = np.linalg.eigh(problem.hessian(problem.optimum))
    return h, (problem.gradients(problem.optimum) @ vectors).var(0)


def decaying_limit(problem: Problem, mu: float) -> float:
    """k · E gap of single examples for step β/k, β = 2/μ, in the limit: sum of β² h c / (4 β h - 2) (see the page)."""
    h, c = noise_in_eigenbasis(problem)
    beta = 2 / mu
    return float((beta**2 * h * c / (4 * beta * h - 2)).sum())


def first_order_floor(problem: Problem, step: float, batch: int) -> float:
    """Mean gap that a small constant step ends with: α σ² / 4b, σ² at the optimum."""
    return step / (4 * batch) * float(noise_in_eigenbasis(problem)[1].sum())


def exact_floor(problem: Ridge, step: float, batch: int) -> float:
    """Mean gap that a constant step ends with on ridge, drawing with replacement: tr(H M) / 2, for which M solves

    M = (I - αH) M (I - αH) + α²/b (C + mean_i (A_i - A) M (A_i - A)),   A_i = x_i x_i', A = mean A_i.

    C is the covariance of one example's gradient at the optimum; the last term is the noise that grows with the
    distance from it.
    """
    w, x, n = problem.optimum, problem.x, problem.n
    hessian, size = problem.hessian(w), problem.x.shape[1]
    keep = np.eye(size) - step * hessian
    pairs = np.einsum("ni,nj->nij", x, x).reshape(n, -1)  # vec of x_i x_i'
    mean = pairs.mean(0).reshape(size, size)
    spread = np.einsum("nij,nkl->ikjl", *[pairs.reshape(n, size, size)] * 2).reshape(size**2, -1) / n
    noise = step**2 / batch
    system = np.eye(size**2) - np.kron(keep, keep) - noise * (spread - np.kron(mean, mean))
    covariance = np.cov(problem.gradients(w).T, bias=True)
    moment = np.linalg.solve(system, noise * covariance.ravel()).reshape(size, size)
    return float(np.trace(hessian @ moment)) / 2


def first_reached(gaps: np.ndarray, targets: Sequence[float]) -> list[list[tuple[int, int]]]:
    """For each target (row, column) of the first gap within it in each column of `gaps` that comes so far."""
    within = [gaps <= target for target in targets]
    return [[(int(each[:, c].argmax()), int(c)) for c in np.flatnonzero(each.any(0))] for each in within]
