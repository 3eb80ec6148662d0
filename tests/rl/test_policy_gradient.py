"""Policy gradients on problems that are enumerated whole: bias and variance are computed, not sampled."""

from __future__ import annotations

import itertools

import pytest
import torch

from finetune.rl import baselines, tabular
from finetune.rl.policy_gradient import gae, reward_to_go, surrogate, whole_return


@pytest.fixture
def mdp() -> tabular.Mdp:
    return tabular.random_mdp(states=3, actions=2, horizon=3, seed=0)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def trajectories(mdp: tabular.Mdp, logits: torch.Tensor) -> tabular.Trajectories:
    return tabular.enumerate_all(mdp, logits)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=1e-12)


def test_enumeration_is_whole(mdp, logits, trajectories) -> None:
    assert trajectories.states_NT.shape == (6**3, 3)
    assert float(trajectories.probabilities_N.sum()) == pytest.approx(1, abs=1e-12)


def test_two_ways_to_the_exact_gradient_agree(mdp, logits) -> None:
    logits.requires_grad_()
    trajectories = tabular.enumerate_all(mdp, logits)
    expected_return = trajectories.probabilities_N @ trajectories.rewards_NT.sum(1)
    (gradient,) = torch.autograd.grad(expected_return, logits)
    assert close(gradient.flatten(), tabular.exact_gradient(mdp, logits))


def test_scores_are_gradients_of_log_probabilities(logits, trajectories) -> None:
    logits.requires_grad_()
    scores = tabular.scores(trajectories, logits.detach())
    for n, t in [(0, 0), (100, 1), (215, 2)]:
        log_prob = logits.log_softmax(1)[trajectories.states_NT[n, t], trajectories.actions_NT[n, t]]
        (gradient,) = torch.autograd.grad(log_prob, logits)
        assert close(scores[n, t], gradient.flatten())


@pytest.mark.parametrize("returns", [whole_return, reward_to_go])
@pytest.mark.parametrize("name", ["none", "constant", "state value"])
def test_unbiased_with_any_baseline_that_does_not_see_the_action(name, returns, mdp, logits, trajectories) -> None:
    values_TS = tabular.state_values(mdp, logits)
    baseline = {
        "none": 0.0,
        "constant": 7.0,
        "state value": values_TS[torch.arange(3), trajectories.states_NT],
    }[name]
    mean, _ = tabular.moments(
        trajectories, tabular.scores(trajectories, logits), returns(trajectories.rewards_NT) - baseline
    )
    assert close(mean, tabular.exact_gradient(mdp, logits))


def test_a_baseline_that_sees_the_action_is_biased(mdp, logits, trajectories) -> None:
    weights = reward_to_go(trajectories.rewards_NT) - trajectories.rewards_NT
    mean, _ = tabular.moments(trajectories, tabular.scores(trajectories, logits), weights)
    assert (mean - tabular.exact_gradient(mdp, logits)).abs().max() > 0.01


def test_variance_falls_with_reward_to_go_and_with_state_values(mdp, logits, trajectories) -> None:
    scores = tabular.scores(trajectories, logits)
    to_go = reward_to_go(trajectories.rewards_NT)
    values = tabular.state_values(mdp, logits)[torch.arange(3), trajectories.states_NT]
    variances = [
        tabular.moments(trajectories, scores, weights)[1]
        for weights in (whole_return(trajectories.rewards_NT), to_go, to_go - values)
    ]
    assert variances == sorted(variances, reverse=True)
    assert variances[0] > 5 * variances[-1]


def test_no_constant_has_less_variance_than_the_optimal_one(logits, trajectories) -> None:
    scores = tabular.scores(trajectories, logits)
    returns = trajectories.rewards_NT.sum(1)
    best = float(baselines.optimal(scores.sum(1), returns, trajectories.probabilities_N))

    def variance(baseline: float) -> float:
        return tabular.moments(trajectories, scores, (returns - baseline).unsqueeze(1).expand(-1, 3))[1]

    mean = float(trajectories.probabilities_N @ returns)
    assert abs(best - mean) > 0.01, "the mean return is another baseline here, and a worse one"
    assert variance(best) < variance(mean)
    assert variance(best) < min(variance(best - 0.01), variance(best + 0.01))


def groups(rewards: list[float], logits: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every group of `size` actions of a bandit (G, K), its probability (G) and the scores of its actions (G, K, A)."""
    policy = logits.softmax(0)
    actions = torch.tensor(list(itertools.product(range(len(rewards)), repeat=size)))
    return actions, policy[actions].prod(1), torch.eye(len(rewards), dtype=torch.float64)[actions] - policy


@pytest.mark.parametrize("size", [2, 4])
def test_group_mean_shrinks_the_gradient_and_leave_one_out_does_not(size: int) -> None:
    rewards = [1.0, -0.5, 2.0]
    logits = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    exact = tabular.exact_gradient(tabular.bandit(rewards), logits.unsqueeze(0))
    actions, probabilities, scores = groups(rewards, logits, size)
    returns = torch.tensor(rewards, dtype=torch.float64)[actions]

    def expected(baseline: torch.Tensor) -> torch.Tensor:
        estimates = (scores * (returns - baseline).unsqueeze(-1)).mean(1)
        return (probabilities.unsqueeze(1) * estimates).sum(0)

    assert close(expected(torch.zeros_like(returns)), exact)
    assert close(expected(baselines.leave_one_out(returns)), exact)
    assert close(expected(baselines.group_mean(returns)), (1 - 1 / size) * exact)


def test_the_gradient_of_one_trajectory() -> None:
    """G = [3, 1, -1] and b = 1, their mean: 2 g1 + 0 g2 - 2 g3."""
    rewards = torch.tensor([[2.0, 2.0, -1.0]])
    returns = reward_to_go(rewards)
    assert returns.tolist() == [[3.0, 1.0, -1.0]]
    log_probs = torch.tensor([[-0.1, -0.7, -1.3]], requires_grad=True)
    surrogate(log_probs, returns - returns.mean()).backward()
    assert log_probs.grad.tolist() == [[2.0, 0.0, -2.0]]


class TestGae:
    rewards = torch.tensor([[1.0, 0.0, 2.0, 1.0]])
    values = torch.tensor([[0.5, 1.0, -1.0, 0.3]])
    last = torch.tensor([2.0])
    going_on = torch.zeros(1, 4)

    def test_lambda_0_is_the_error_of_one_step(self) -> None:
        found = gae(self.rewards, self.values, self.last, self.going_on, gamma=0.9, lam=0)
        following = torch.tensor([[1.0, -1.0, 0.3, 2.0]])
        assert torch.allclose(found, self.rewards + 0.9 * following - self.values)

    def test_lambda_1_is_the_reward_to_go_less_the_value(self) -> None:
        found = gae(self.rewards, self.values, self.last, self.going_on, gamma=0.9, lam=1)
        to_go = reward_to_go(torch.cat([self.rewards, self.last.unsqueeze(1)], dim=1), 0.9)[:, :4]
        assert torch.allclose(found, to_go - self.values)

    def test_nothing_behind_an_end_counts(self) -> None:
        ended = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
        whole = gae(self.rewards, self.values, self.last, ended, gamma=0.9, lam=0.8)
        first = gae(self.rewards[:, :2], self.values[:, :2], torch.tensor([99.0]), ended[:, :2], gamma=0.9, lam=0.8)
        assert torch.allclose(whole[:, :2], first)

    @pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
    def test_with_true_values_it_is_unbiased(self, lam, mdp, logits, trajectories) -> None:
        values_TS = tabular.state_values(mdp, logits)
        values = values_TS[torch.arange(3), trajectories.states_NT]
        ended = torch.zeros_like(values)
        ended[:, -1] = 1
        advantages = gae(trajectories.rewards_NT, values, torch.zeros(len(values)).double(), ended, gamma=1.0, lam=lam)
        mean, _ = tabular.moments(trajectories, tabular.scores(trajectories, logits), advantages)
        assert close(mean, tabular.exact_gradient(mdp, logits))
