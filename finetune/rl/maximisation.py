"""The maximum of noisy estimates is above the largest of what they estimate (Thrun and Schwartz 1993), and choosing by
one set of estimates while valuing by another is not (van Hasselt 2010). Computed by quadrature, nothing is sampled.

Estimates are normal with one standard deviation and independent of each other. Shapes: A actions, X points of a grid.
"""

from __future__ import annotations

import torch

POINTS = 8_001
REACH = 10.0
"""How many standard deviations the grid reaches beyond the values: what lies outside is below 1e-20."""


def chosen(values_A: torch.Tensor, noise: float) -> tuple[torch.Tensor, float]:
    """How probable it is that each action's estimate is the largest (A), and the expectation of the largest."""
    low, high = float(values_A.min()) - REACH * noise, float(values_A.max()) + REACH * noise
    grid_X = torch.linspace(low, high, POINTS, dtype=torch.float64)
    standard_AX = (grid_X - values_A.double().unsqueeze(1)) / noise
    density_AX = torch.exp(-0.5 * standard_AX.square()) / (noise * (2 * torch.pi) ** 0.5)
    below_AX = torch.special.ndtr(standard_AX)
    largest_AX = torch.stack([density_AX[a] * _others(below_AX, a) for a in range(len(values_A))])
    return torch.trapezoid(largest_AX, grid_X), float(torch.trapezoid(grid_X * largest_AX.sum(0), grid_X))


def _others(below_AX: torch.Tensor, action: int) -> torch.Tensor:
    """How probable it is that all other estimates are below each point (X)."""
    return torch.cat([below_AX[:action], below_AX[action + 1 :]]).prod(0)


def double(values_A: torch.Tensor, noise: float, correlation: float = 0.0) -> float:
    """Expected value of choosing by one set of estimates and valuing by another whose noise is this much like the
    first's: 0 are two independent networks, 1 is one and the same. Of the chooser's own error, that share stays."""
    probabilities_A, maximum = chosen(values_A, noise)
    truth = float(probabilities_A @ values_A.double())
    return truth + correlation * (maximum - truth)
