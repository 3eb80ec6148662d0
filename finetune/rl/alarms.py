"""Alarms of deep Q-learning: what collapses before the return does.

Values that grow towards 1 / (1 - gamma) in states that are lost, best actions no better than others, ends of episodes
that vanish from what is learned from, and values above what is then earned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from finetune.rl.dqn import Agent
from finetune.rl.environments import make_envs
from finetune.rl.replay import Replay

STATES = 2_000
"""Transitions of the replay that are looked at."""

EPISODES = 10


@dataclass(frozen=True)
class Alarms:
    """After `steps` environment steps: `action_gap`, how much the best action's value is above the second's (mean);
    `doomed_value`, the highest value in states whose every next step ends the episode, where a reward of 1 is all
    there is; `terminal_share` of the replay's transitions; `overestimation`, the value of the first state less the
    discounted return that follows (mean over EPISODES)."""

    steps: int
    action_gap: float
    doomed_value: float
    terminal_share: float
    overestimation: float


@torch.no_grad()
def measure(steps: int, agent: Agent, replay: Replay, seed: int) -> Alarms:
    """The alarms of an agent as it is now. `doomed_value` is NaN while nothing in the replay has ended."""
    kept = replay.at(torch.arange(max(0, replay.size - STATES), replay.size))
    values_BA = agent.online(kept.observations)
    best_B2 = values_BA.topk(2, dim=1).values
    doomed_B = best_B2[kept.terminated == 1, 0]
    return Alarms(
        steps,
        float((best_B2[:, 0] - best_B2[:, 1]).mean()),
        float(doomed_B.mean()),
        replay.terminal_share(),
        overestimation(agent, seed),
    )


@torch.no_grad()
def overestimation(agent: Agent, seed: int) -> float:
    """Value of the first states less the discounted return of the greedy policy from them."""
    settings = agent.settings
    envs = make_envs(settings.env_id, EPISODES)
    observations, _ = envs.reset(seed=[2_000_000 + 1000 * seed + index for index in range(EPISODES)])
    expected_E = agent.online(torch.as_tensor(observations, dtype=torch.float32)).max(1).values.numpy()
    returns_E, going_E, discount = np.zeros(EPISODES), np.ones(EPISODES, bool), 1.0
    while going_E.any():
        actions = agent.best(torch.as_tensor(observations, dtype=torch.float32))
        observations, rewards, terminated, truncated, _ = envs.step(actions.numpy())
        returns_E += discount * rewards * going_E
        going_E &= ~(terminated | truncated)
        discount *= settings.gamma
    envs.close()
    return float((expected_E - returns_E).mean())
