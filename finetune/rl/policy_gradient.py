"""REINFORCE (Williams 1992): the gradient of the expected return is the expected sum of scores times returns.

    grad J = E[ sum_t grad log pi(a_t | s_t) (G_t - b_t) ]

G_t may be the whole return or the reward to go, since an action changes nothing that came before it (Sutton et al.
2000); b_t may be anything that does not depend on a_t. Shapes: B trajectories, T steps.
"""

from __future__ import annotations

import torch


def surrogate(log_probs_BT: torch.Tensor, weights_BT: torch.Tensor) -> torch.Tensor:
    """A number whose gradient is the estimate, to be climbed: the mean over trajectories of scores times weights.

    Weights are constants: no gradient flows through them. Steps behind a trajectory's end have weight 0.
    """
    return (log_probs_BT * weights_BT.detach()).sum(1).mean()


def whole_return(rewards_BT: torch.Tensor, gamma: float = 1.0) -> torch.Tensor:
    """The discounted return from the first step, at every step (B, T)."""
    return reward_to_go(rewards_BT, gamma)[:, :1].expand_as(rewards_BT)


def reward_to_go(rewards_BT: torch.Tensor, gamma: float = 1.0) -> torch.Tensor:
    """Discounted rewards from each step on: G_t = r_t + gamma G_{t+1} (B, T)."""
    returns_BT = torch.empty_like(rewards_BT)
    following_B = torch.zeros_like(rewards_BT[:, 0])
    for t in reversed(range(rewards_BT.shape[1])):
        following_B = rewards_BT[:, t] + gamma * following_B
        returns_BT[:, t] = following_B
    return returns_BT


def gae(
    rewards_BT: torch.Tensor,
    values_BT: torch.Tensor,
    last_value_B: torch.Tensor,
    ended_BT: torch.Tensor,
    *,
    gamma: float,
    lam: float,
) -> torch.Tensor:
    """Generalised advantage estimates (Schulman et al. 2016): sums of TD errors, discounted by gamma * lam (B, T).

    `values_BT` are of the states before each step, `last_value_B` of those after the last; `ended_BT` is 1 where the
    episode ended with the step, so that nothing behind it counts. lam = 0 is the TD error, with the least variance and
    the bias of the values; lam = 1 is the reward to go less the value, without bias.
    """
    advantages_BT = torch.empty_like(rewards_BT)
    following_B, next_value_B = torch.zeros_like(last_value_B), last_value_B
    for t in reversed(range(rewards_BT.shape[1])):
        goes_on_B = 1 - ended_BT[:, t]
        error_B = rewards_BT[:, t] + gamma * goes_on_B * next_value_B - values_BT[:, t]
        following_B = error_B + gamma * lam * goes_on_B * following_B
        advantages_BT[:, t], next_value_B = following_B, values_BT[:, t]
    return advantages_BT
