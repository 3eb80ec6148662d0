"""Baselines: what is taken off a return before it weighs a score. One that does not depend on the action leaves the
expected gradient as it is, since scores have mean zero; it changes the variance.
"""

from __future__ import annotations

import torch


def leave_one_out(returns_BK: torch.Tensor) -> torch.Tensor:
    """The mean return of the other samples of the group (B, K): without bias (Kool et al. 2019; RLOO, Ahmadian et al.
    2024). A group has at least two samples."""
    others = returns_BK.shape[1] - 1
    return (returns_BK.sum(1, keepdim=True) - returns_BK) / others


def group_mean(returns_BK: torch.Tensor) -> torch.Tensor:
    """The mean return of the whole group, the sample itself among it (B, K): GRPO's (Shao et al. 2024).

    It depends on the action, and the expected gradient shrinks by 1 - 1/K: the sample's share of its own baseline is
    taken off. What is left is leave-one-out's, times (K - 1) / K.
    """
    return returns_BK.mean(1, keepdim=True).expand_as(returns_BK)


def optimal(scores_ND: torch.Tensor, returns_N: torch.Tensor, probabilities_N: torch.Tensor) -> torch.Tensor:
    """The constant with the least variance summed over the D components of the gradient: the mean return, weighted by
    the squared length of the score, E[|g|^2 G] / E[|g|^2] (Greensmith, Bartlett and Baxter 2004). A number."""
    weights_N = probabilities_N * scores_ND.square().sum(1)
    return (weights_N * returns_N).sum() / weights_N.sum()
