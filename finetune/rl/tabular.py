"""Markov decision processes small enough to enumerate: nothing here is sampled, so nothing here is by chance.

Shapes: S states, A actions, T steps, N trajectories (every one that can happen), D = S * A parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Mdp:
    """A finite problem of `horizon` steps. `transitions_SAS` and `start_S` are probabilities, `rewards_SA` numbers."""

    transitions_SAS: torch.Tensor
    rewards_SA: torch.Tensor
    start_S: torch.Tensor
    horizon: int


@dataclass(frozen=True)
class Trajectories:
    """Every trajectory of a problem under a policy, with its probability."""

    states_NT: torch.Tensor
    actions_NT: torch.Tensor
    rewards_NT: torch.Tensor
    probabilities_N: torch.Tensor


def random_mdp(states: int, actions: int, horizon: int, seed: int) -> Mdp:
    """A problem with drawn transitions and rewards, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Mdp(draw(states, actions, states).softmax(-1), draw(states, actions), draw(states).softmax(0), horizon)


def bandit(rewards: list[float]) -> Mdp:
    """One state, one step, and a fixed reward for each action."""
    rewards_SA = torch.tensor([rewards], dtype=torch.float64)
    ones = torch.ones(1, len(rewards), 1, dtype=torch.float64)
    return Mdp(ones, rewards_SA, torch.ones(1, dtype=torch.float64), 1)


def enumerate_all(mdp: Mdp, logits_SA: torch.Tensor) -> Trajectories:
    """All S^T A^T trajectories under the softmax policy of `logits_SA`. Probabilities carry gradients to the logits."""
    policy_SA = logits_SA.softmax(1)
    states, actions = mdp.rewards_SA.shape
    steps = torch.cartesian_prod(*[torch.arange(states * actions)] * mdp.horizon).reshape(-1, mdp.horizon)
    states_NT, actions_NT = steps // actions, steps % actions
    probabilities_N = mdp.start_S[states_NT[:, 0]] * policy_SA[states_NT, actions_NT].prod(1)
    for t in range(mdp.horizon - 1):
        moved = states_NT[:, t], actions_NT[:, t], states_NT[:, t + 1]
        probabilities_N = probabilities_N * mdp.transitions_SAS[moved]
    return Trajectories(states_NT, actions_NT, mdp.rewards_SA[states_NT, actions_NT], probabilities_N)


def exact_gradient(mdp: Mdp, logits_SA: torch.Tensor) -> torch.Tensor:
    """The gradient of the expected return (D), by dynamic programming: no trajectory is looked at."""
    logits_SA = logits_SA.detach().requires_grad_()
    policy_SA = logits_SA.softmax(1)
    value_S = torch.zeros(len(mdp.start_S), dtype=torch.float64)
    for _ in range(mdp.horizon):
        value_S = (policy_SA * (mdp.rewards_SA + mdp.transitions_SAS @ value_S)).sum(1)
    return torch.autograd.grad(mdp.start_S @ value_S, logits_SA)[0].flatten()


def state_values(mdp: Mdp, logits_SA: torch.Tensor) -> torch.Tensor:
    """The expected reward to go at each step and state (T, S)."""
    policy_SA, value_S, found = logits_SA.softmax(1), torch.zeros(len(mdp.start_S), dtype=torch.float64), []
    for _ in range(mdp.horizon):
        value_S = (policy_SA * (mdp.rewards_SA + mdp.transitions_SAS @ value_S)).sum(1)
        found.append(value_S)
    return torch.stack(found[::-1])


def scores(trajectories: Trajectories, logits_SA: torch.Tensor) -> torch.Tensor:
    """The score of each step, the gradient of log pi(a | s) (N, T, D): of a softmax, one-hot(a) - pi(. | s)."""
    policy_SA = logits_SA.softmax(1)
    states, actions = policy_SA.shape
    at_NTS = torch.nn.functional.one_hot(trajectories.states_NT, states).double()
    difference_NTA = (
        torch.nn.functional.one_hot(trajectories.actions_NT, actions).double() - policy_SA[trajectories.states_NT]
    )
    return (at_NTS.unsqueeze(-1) * difference_NTA.unsqueeze(-2)).flatten(2)


def moments(
    trajectories: Trajectories, scores_NTD: torch.Tensor, weights_NT: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Mean (D) and variance, summed over components, of the estimate that one trajectory gives: exact."""
    estimates_ND = (scores_NTD * weights_NT.unsqueeze(-1)).sum(1)
    probabilities_N1 = trajectories.probabilities_N.unsqueeze(1)
    mean_D = (probabilities_N1 * estimates_ND).sum(0)
    return mean_D, float((probabilities_N1 * (estimates_ND - mean_D).square()).sum())
