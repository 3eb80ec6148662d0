"""The alarms of deep Q-learning say what they are said to, and go off where the target network is missing."""

from __future__ import annotations

import dataclasses
import json

import gymnasium
import numpy as np
import torch

from finetune.rl import ablation, dqn
from finetune.rl.alarms import measure
from finetune.rl.replay import Replay

SHORT = dataclasses.replace(ablation.WHOLE, steps=4_000, learning_starts=500, evaluate_every=4_000)


def test_of_constant_values() -> None:
    """An agent that values action 0 at 7 and action 1 at 3 everywhere, and so always takes 0."""
    agent = dqn.Agent(SHORT, 4, 2)
    with torch.no_grad():
        agent.online[-1].weight.zero_()
        agent.online[-1].bias.copy_(torch.tensor([7.0, 3.0]))
    replay = Replay(10, 4, seed=0)
    replay.add(np.zeros((4, 4)), np.zeros(4), np.ones(4), np.ones((4, 4)), np.array([True, False, False, False]))
    found = measure(100, agent, replay, seed=0)
    assert (found.steps, found.action_gap, found.doomed_value, found.terminal_share) == (100, 4.0, 7.0, 0.25)
    returned = 7.0 - found.overestimation
    assert (1 - 0.99**8) / 0.01 <= returned <= (1 - 0.99**11) / 0.01, "always to the left, CartPole lasts 8 to 11 steps"


def watched(name: str) -> dict[str, float | None]:
    found = ablation.watch(name, seed=0, steps=4_000, learning_starts=500, evaluate_every=4_000)
    return {key: column[-1] for key, column in found.items()}


def test_without_a_target_network_values_run_away() -> None:
    bound = 1 / (1 - SHORT.gamma)
    whole, broken = watched("whole"), watched("no target network")
    assert whole["doomed_value"] < bound and abs(whole["overestimation"]) < bound
    assert broken["doomed_value"] > 100 * bound and broken["overestimation"] > 100 * bound


def test_without_replay_ends_of_episodes_come_and_go() -> None:
    """What is learned from is the newest transitions alone: now full of ends, now without one."""
    shares: list[float] = []
    settings = dataclasses.replace(SHORT, replay=False, evaluate_every=256)
    dqn.train(settings, seed=0, watch=lambda steps, agent, replay: shares.append(replay.terminal_share()))
    assert max(shares) > 3 * min(shares)


def test_what_is_not_defined_is_none() -> None:
    """Nothing has ended among the newest transitions: no value of doomed states, and JSON holds it."""
    found = ablation.watch("no replay", seed=0, steps=1_200, learning_starts=500, evaluate_every=40)
    nothing = [share == 0 for share in found["terminal_share"]]
    assert any(nothing) and [value is None for value in found["doomed_value"]] == nothing
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_no_action_saves_a_doomed_cart() -> None:
    """CartPole's next position and angle come of its velocities alone: where one action ends the episode, all do."""
    env = gymnasium.make("CartPole-v1").unwrapped
    for state in np.random.default_rng(0).uniform(-1, 1, (50, 4)) * [2.4, 3, 0.21, 3]:
        following = []
        for action in (0, 1):
            env.reset()
            env.state = state
            following.append(env.step(action)[0])
        assert np.array_equal(following[0][[0, 2]], following[1][[0, 2]])
        assert not np.array_equal(following[0], following[1])
