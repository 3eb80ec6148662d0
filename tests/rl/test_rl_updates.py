"""One update of each algorithm, on data whose right answer is known: signs, baselines, ends and targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from finetune.rl import actor_critic, dqn, reinforce
from finetune.rl.replay import Replay

REWARDS_ET = torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0, 1.0, 0.0]])
ACTIONS_ET = 1 - REWARDS_ET.long()
"""Action 0 earns 1, action 1 nothing, and every step is an episode: the values to go are the rewards."""


class Expecting(actor_critic.ActorCritic):
    """A policy over one observation, whose critic expects what it is told to."""

    def __init__(self, expected_ET: torch.Tensor) -> None:
        super().__init__(1, 2)
        self.expected_ET = torch.nn.Parameter(expected_ET)

    def value(self, observations: torch.Tensor) -> torch.Tensor:
        return self.expected_ET if observations.ndim == 3 else torch.zeros(observations.shape[0])

    def probability(self) -> float:
        """Of action 0."""
        return float(self.actor(torch.ones(1, 1)).softmax(1)[0, 0].detach())


def actor_critic_step(model: Expecting, entropy_weight: float = 0.0) -> None:
    rollout = actor_critic.Rollout(
        torch.ones(2, 6, 1), ACTIONS_ET, REWARDS_ET, torch.ones(2, 6), last_EO=torch.ones(2, 1)
    )
    optimizer = torch.optim.SGD(model.actor.parameters(), lr=0.5)
    settings = actor_critic.A2CSettings(entropy_weight=entropy_weight)
    actor_critic.update(model, optimizer, rollout, settings)


def reinforce_step(model: Expecting, entropy_weight: float = 0.0, baseline: bool = True) -> None:
    episodes = reinforce.Episodes(torch.ones(2, 6, 1), ACTIONS_ET, REWARDS_ET, torch.ones(2, 6))
    optimizer = torch.optim.SGD(model.actor.parameters(), lr=0.5)
    settings = reinforce.ReinforceSettings(gamma=0.0, value_steps=0, entropy_weight=entropy_weight, baseline=baseline)
    reinforce.update(model, optimizer, None, episodes, settings)


@pytest.mark.parametrize("step", [actor_critic_step, reinforce_step])
class TestActors:
    def test_what_earns_more_becomes_more_probable(self, step) -> None:
        torch.manual_seed(0)
        model = Expecting(torch.full((2, 6), 0.5))
        before = model.probability()
        step(model)
        assert model.probability() > before + 0.01

    def test_what_was_expected_teaches_nothing(self, step) -> None:
        """A baseline that is right leaves no weight; added instead of taken off, it would double it."""
        torch.manual_seed(0)
        model = Expecting(REWARDS_ET.clone())
        before = [parameter.clone() for parameter in model.actor.parameters()]
        step(model)
        assert all(torch.equal(*pair) for pair in zip(before, model.actor.parameters(), strict=True))

    def test_entropy_pulls_to_even_odds(self, step) -> None:
        torch.manual_seed(0)
        model = Expecting(REWARDS_ET.clone())
        with torch.no_grad():
            model.actor[-1].bias += torch.tensor([1.0, -1.0])
        before = model.probability()
        step(model, entropy_weight=0.5)
        assert 0.5 < model.probability() < before - 0.01


def test_without_a_baseline_the_return_itself_is_the_weight() -> None:
    torch.manual_seed(0)
    model = Expecting(REWARDS_ET.clone())
    before = model.probability()
    reinforce_step(model, baseline=False)
    assert model.probability() > before + 0.01


def test_the_target_is_synced_when_it_is_time() -> None:
    torch.manual_seed(0)
    agent = dqn.Agent(dqn.DQNSettings(hidden=8, target_every=3), 4, 2)
    replay = Replay(8, 4, seed=0)
    rng = np.random.default_rng(0)
    replay.add(rng.normal(size=(8, 4)), np.zeros(8), np.ones(8), rng.normal(size=(8, 4)), np.zeros(8))
    seen = replay.at(torch.arange(8)).observations
    synced = []
    for _ in range(7):
        agent.learn(replay.sample(4))
        synced.append(torch.equal(agent.target(seen), agent.online(seen)))
    assert synced == [False, False, True, False, False, True, False]


def test_time_that_is_up_ends_an_episode_and_not_its_value() -> None:
    """Acrobot, by chance, never reaches its end: after 500 steps time is up. The replay has no terminal transition, and
    the last one leads to where the episode was, not to where the next began."""
    kept: list[Replay] = []
    settings = dqn.DQNSettings(
        env_id="Acrobot-v1",
        steps=2_100,
        envs=4,
        hidden=8,
        learning_starts=9_999,
        exploration=100.0,
        evaluate_every=2_100,
    )
    dqn.train(settings, seed=0, watch=lambda steps, agent, replay: kept.append(replay))
    assert kept[-1].size == 2_100 and kept[-1].terminal_share() == 0
    last, first = kept[-1].at(torch.arange(4 * 499, 4 * 500)), kept[-1].at(torch.arange(4 * 500, 4 * 501))
    assert (first.observations[:, 4:].abs() <= 0.1).all(), "begun anew: all but at rest"
    assert (last.next_observations[:, 4:].abs() > 0.1).any(1).all(), "swinging"
