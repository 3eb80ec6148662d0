"""What a baseline saves: the variance of a policy gradient with it and without, on rollouts that were really made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from finetune.rl.baselines import leave_one_out


@dataclass(frozen=True)
class Saving:
    """Variance of one completion's part of the policy gradient, (r − b) ∇ log π, summed over parameters: `without` a
    baseline, with `leave_one_out`, and with the constant that is `optimal` for these very rollouts."""

    completions: int
    without: float
    leave_one_out: float
    optimal: float

    def __str__(self) -> str:
        if not self.without:
            return "no completion tried has a reward: there is no gradient whose variance could be measured"
        changed, best = self.leave_one_out / self.without - 1, self.optimal / self.without - 1
        words = (
            f"variance of the policy gradient over {self.completions} completions: {self.leave_one_out:.3g} with the "
            f"leave-one-out baseline, {self.without:.3g} without one ({changed:+.0%}); no constant does better than "
            f"{self.optimal:.3g} ({best:+.0%})"
        )
        if changed <= 0:
            return words
        return f"{words}. It is larger here because completions without reward have the larger gradients"


def measure_saving(scores: Iterable[torch.Tensor], rewards_GK: torch.Tensor) -> Saving:
    """`scores` are ∇ log π of each completion, flat (D), group by group, and come one by one: three sums are held.

    The trace of the sample covariance of w_i g_i is (Σ w_i² |g_i|² − |Σ w_i g_i|² / N) / (N − 1). With w_i = r_i − b
    it is a parabola in b, whose lowest point is the optimal constant baseline (Greensmith et al. 2004). GRPO's
    baseline, the mean of the whole group, is the leave-one-out one but for a factor (1 − 1/K) of all weights.
    """
    rewards = rewards_GK.double().flatten()
    apart = (rewards_GK - leave_one_out(rewards_GK)).double().flatten()
    weights_3N = torch.stack([rewards, torch.ones_like(rewards), apart])
    sums_3D, squares_N = None, torch.zeros_like(rewards)
    for index, score_D in enumerate(scores):
        part = weights_3N[:, index, None].to(score_D.device, score_D.dtype) * score_D
        sums_3D = part if sums_3D is None else sums_3D + part
        squares_N[index] = score_D.double().square().sum()
    assert sums_3D is not None and len(rewards) > 1, "one score has no variance"
    products = (sums_3D.double() @ sums_3D.double().T).cpu()
    spread = (torch.einsum("an,bn,n->ab", weights_3N, weights_3N, squares_N) - products / len(rewards)).tolist()
    (raw, cross, _), (_, ones, _), (_, _, left_out) = spread
    best = raw - cross**2 / ones if ones else raw
    return Saving(len(rewards), *(value / (len(rewards) - 1) for value in (raw, left_out, best)))
