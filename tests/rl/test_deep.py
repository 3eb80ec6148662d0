"""Deep reinforcement learning: the parts exactly, the whole by solving CartPole from a fixed seed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from rl_results import pages

from finetune.rl import ablation, actor_critic, dqn, environments, reinforce
from finetune.rl.replay import Replay, Transitions


def transitions(rewards: list[float], terminated: list[float]) -> Transitions:
    count = len(rewards)
    observations = torch.arange(4.0 * count).reshape(count, 4)
    return Transitions(
        observations,
        torch.zeros(count, dtype=torch.long),
        torch.tensor(rewards),
        observations + 1,
        torch.tensor(terminated),
    )


class TestReplay:
    def add(self, replay: Replay, *values: int) -> None:
        seen = np.array(values, dtype=float)[:, None]
        replay.add(
            seen, np.array(values), np.array(values, float), seen + 1, np.array([value % 2 == 0 for value in values])
        )

    def test_the_oldest_give_way(self) -> None:
        replay = Replay(4, 1, seed=0)
        for pair in ((1, 2), (3, 4), (5, 6)):
            self.add(replay, *pair)
        assert replay.size == 4
        assert sorted(replay.at(torch.arange(4)).actions.tolist()) == [3, 4, 5, 6]
        assert replay.terminal_share() == 0.5

    def test_a_sample_is_of_whole_transitions_that_have_been_added(self) -> None:
        replay = Replay(100, 1, seed=0)
        self.add(replay, 1, 2, 3)
        batch = replay.sample(50)
        assert set(batch.actions.tolist()) == {1, 2, 3}
        assert torch.equal(batch.observations[:, 0], batch.rewards)
        assert torch.equal(batch.next_observations, batch.observations + 1)


class TestTargets:
    @pytest.fixture
    def agent(self) -> dqn.Agent:
        torch.manual_seed(0)
        return dqn.Agent(dqn.DQNSettings(hidden=8), 4, 2)

    def test_nothing_counts_behind_a_terminal_state(self, agent) -> None:
        assert agent.targets(transitions([2.0], [1.0])).tolist() == [2.0]
        assert agent.targets(transitions([2.0], [0.0])).tolist() != [2.0]

    def test_double_chooses_by_one_network_and_values_by_the_other(self, agent) -> None:
        batch = transitions([0.0], [0.0])
        with torch.no_grad():
            agent.online[-1].bias += torch.tensor([100.0, 0.0])  # chooses 0
            agent.target[-1].bias += torch.tensor([0.0, 50.0])  # likes 1
            values = agent.target(batch.next_observations)[0]
        assert agent.targets(batch).item() == pytest.approx(0.99 * values[0].item())
        agent.settings = dqn.DQNSettings(hidden=8, double=False)
        assert agent.targets(batch).item() == pytest.approx(0.99 * values[1].item())

    def test_the_target_holds_still_until_it_is_synced(self, agent) -> None:
        batch = transitions([1.0, 2.0], [0.0, 1.0])
        before = agent.target(batch.observations).detach().clone()
        for _ in range(3):
            agent.learn(batch)
        assert torch.equal(agent.target(batch.observations), before)
        agent.sync()
        assert torch.equal(agent.target(batch.observations), agent.online(batch.observations))
        assert not torch.equal(agent.target(batch.observations), before)

    def test_without_a_target_network_there_is_one(self) -> None:
        agent = dqn.Agent(dqn.DQNSettings(target_every=0), 4, 2)
        assert agent.target is agent.online


class TestRollout:
    def test_time_that_is_up_is_no_end_of_value(self) -> None:
        settings = actor_critic.A2CSettings(envs=8, rollout=500)
        envs = environments.make_envs(settings.env_id, settings.envs)
        torch.manual_seed(0)
        model = actor_critic.ActorCritic(4, 2)
        model.act = lambda observations, generator: (observations[:, 2] + observations[:, 3] > 0).long()  # balances
        model.value = lambda observations: torch.full(observations.shape[:-1], 10.0)
        seen, _ = envs.reset(seed=0)
        rollout, _ = actor_critic.collect(envs, model, seen, settings, torch.Generator())
        fallen = rollout.ended_ET[:, :499].any(1)
        assert 0 < fallen.sum() < 8
        assert (rollout.rewards_ET[:, :499] == 1).all(), "an episode that fell is worth nothing more"
        assert torch.allclose(rollout.rewards_ET[~fallen, 499], torch.tensor(1 + 0.99 * 10))

    def test_episodes_are_padded_behind_their_end(self) -> None:
        envs = environments.make_envs("CartPole-v1", 4)
        torch.manual_seed(0)
        episodes = reinforce.play(envs, actor_critic.ActorCritic(4, 2), torch.Generator().manual_seed(0), seed=0)
        lengths = episodes.going_ET.sum(1)
        assert torch.equal(episodes.rewards_ET, episodes.going_ET), "CartPole pays 1 a step"
        assert lengths.max() == episodes.going_ET.shape[1] and lengths.min() < lengths.max()


@pytest.mark.parametrize(
    ("module", "settings"),
    [
        (actor_critic, actor_critic.A2CSettings(steps=60_000)),
        (reinforce, reinforce.ReinforceSettings(steps=60_000)),
        (dqn, dataclasses.replace(ablation.WHOLE, evaluate_every=2_048)),
    ],
    ids=["actor_critic", "reinforce", "dqn"],
)
def test_cartpole_is_solved(module, settings) -> None:
    told: list[tuple[int, float]] = []
    trained, outcome = module.train(settings, seed=0, progress=lambda *one: told.append(one))
    assert outcome.solved_at is not None and outcome.solved_at <= settings.steps
    assert told == outcome.curve
    best = trained.best
    assert environments.evaluate("CartPole-v1", best, seed=77) >= 400, "not only on the episodes it was judged by"


def test_a_seed_gives_the_same_run() -> None:
    settings = actor_critic.A2CSettings(steps=8_000, evaluate_every=4_000)
    assert actor_critic.train(settings, 3)[1].curve == actor_critic.train(settings, 3)[1].curve
    assert actor_critic.train(settings, 4)[1].curve != actor_critic.train(settings, 3)[1].curve


@pytest.mark.parametrize(("env_id", "seeds"), [("CartPole-v1", 10), ("Acrobot-v1", 5)])
def test_every_algorithm_solved_both_environments_from_every_seed(env_id: str, seeds: int) -> None:
    runs = pages().load(env_id)["runs"]
    for name in ("reinforce", "actor-critic", "dqn"):
        assert len(runs[name]["solved_at"]) == seeds and all(runs[name]["solved_at"])


def test_on_cartpole_in_no_more_steps_and_less_time_a_step_than_the_peer() -> None:
    """Medians of ten seeds that no setting was chosen on, beside Stable-Baselines3's at the settings of its zoo."""
    runs = pages().load("CartPole-v1")["runs"]
    for ours, peer in (("actor-critic", "sb3 a2c"), ("dqn", "sb3 dqn")):
        assert runs[ours]["median"] <= runs[peer]["median"]
        assert runs[ours]["microseconds_a_step"] <= runs[peer]["microseconds_a_step"]
