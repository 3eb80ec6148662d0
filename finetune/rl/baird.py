"""Baird's counterexample (Baird 1995; Sutton and Barto 2018, section 11.2): seven states, eight weights, all rewards 0.

Value estimates are linear and can be exactly right (all zero), yet semi-gradient TD(0) that bootstraps off-policy makes
them grow without end: function approximation, bootstrapping and off-policy learning together, the deadly triad. Updates
are expected ones, over every state with equal weight: nothing is sampled, and nothing diverges by bad luck.
"""

from __future__ import annotations

import numpy as np

GAMMA = 0.99
STEP = 0.01


def features() -> np.ndarray:
    """Feature vectors (7 states, 8 weights): 2 w_i + w_8 for the six upper states, w_7 + 2 w_8 for the lower one."""
    found = np.zeros((7, 8))
    found[:6, :6] = 2 * np.eye(6)
    found[:6, 7] = 1
    found[6, 6], found[6, 7] = 1, 2
    return found


def start() -> np.ndarray:
    """The weights it is begun with (8)."""
    return np.array([1, 1, 1, 1, 1, 1, 10, 1.0])


def semi_gradient(gamma: float = GAMMA) -> np.ndarray:
    """A, where one sweep of expected updates is w += STEP * A w (8, 8).

    The target policy always goes to the lower state; states are visited equally often, which the target policy does
    not do. The expected TD error of a state is gamma v(lower) - v(s).
    """
    phi = features()
    return phi.T @ (gamma * np.tile(phi[6], (7, 1)) - phi) / 7


def on_policy(gamma: float = GAMMA) -> np.ndarray:
    """The same where states are visited as the target policy does: only the lower one, in the long run."""
    low = features()[6]
    return np.outer(low, gamma * low - low)


def residual_gradient(gamma: float = GAMMA) -> np.ndarray:
    """The same for the gradient of the mean squared Bellman error, as Baird proposed: it descends an objective."""
    phi = features()
    error = gamma * np.tile(phi[6], (7, 1)) - phi
    return -error.T @ error / 7


def held(period: int, gamma: float = GAMMA, step: float = STEP) -> np.ndarray:
    """M, where `period` sweeps against a target that holds still are w = M w (8, 8): off-policy and bootstrapped as
    ever, but each target is all but fitted before it moves."""
    phi = features()
    descent = np.eye(8) - step * phi.T @ phi / 7
    pull = step * gamma * phi.T @ np.tile(phi[6], (7, 1)) / 7
    found, power = np.zeros((8, 8)), np.eye(8)
    for _ in range(period):
        found, power = found + power @ pull, power @ descent
    return found + power


def growth(period: int) -> float:
    """What `period` sweeps against a held target multiply the largest error by, in the long run: above 1 it diverges.
    Taken over the weights that values depend on, one direction less than there are."""
    seen = np.linalg.svd(features())[2][:7].T
    return float(np.abs(np.linalg.eigvals(seen.T @ held(period) @ seen)).max())


def sweep(matrix: np.ndarray, sweeps: int, step: float = STEP) -> np.ndarray:
    """Weights after each of `sweeps` updates, the start first (sweeps + 1, 8)."""
    found = [start()]
    for _ in range(sweeps):
        found.append(found[-1] + step * matrix @ found[-1])
    return np.array(found)
