"""Advantage actor-critic (A2C; Mnih et al. 2016, synchronous) with generalised advantage estimates.

An actor climbs the policy gradient, weighted by advantages; a critic learns state values by regression and is the
baseline. Departures from the paper: environments stand side by side instead of in threads; an episode that was cut
short by its time limit goes on in value (Pardo et al. 2018). Shapes: E environments, T steps of a rollout.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from finetune.rl.environments import Looks, Outcome, make_envs, mlp, seeded, sizes
from finetune.rl.policy_gradient import gae, surrogate


@dataclass(frozen=True)
class A2CSettings:
    """Settings; `evaluate_every` counts environment steps."""

    env_id: str = "CartPole-v1"
    steps: int = 500_000
    envs: int = 8
    rollout: int = 8
    gamma: float = 0.99
    lam: float = 0.95
    learning_rate: float = 2e-3
    value_weight: float = 0.5
    entropy_weight: float = 0.001
    max_grad_norm: float = 0.5
    evaluate_every: int = 8_000


@dataclass(frozen=True)
class Rollout:
    """T steps in E environments, time last; `ended_ET` is 1 where an episode ended with the step."""

    observations_ETO: torch.Tensor
    actions_ET: torch.Tensor
    rewards_ET: torch.Tensor
    ended_ET: torch.Tensor
    last_EO: torch.Tensor


class ActorCritic(torch.nn.Module):
    """Two networks: logits of actions, and the value of a state."""

    def __init__(self, observation: int, actions: int) -> None:
        super().__init__()
        self.actor = mlp(observation, actions, last_gain=0.01)
        self.critic = mlp(observation, 1, last_gain=1.0)

    def act(self, observations_EO: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Sampled actions (E)."""
        return torch.multinomial(self.actor(observations_EO).softmax(1), 1, generator=generator).squeeze(1)

    def best(self, observations_EO: torch.Tensor) -> torch.Tensor:
        """The most probable actions (E)."""
        return self.actor(observations_EO).argmax(1)

    def value(self, observations: torch.Tensor) -> torch.Tensor:
        """State values, of any leading shape."""
        return self.critic(observations).squeeze(-1)


def train(
    settings: A2CSettings, seed: int, progress: Callable[[int, float], None] | None = None
) -> tuple[ActorCritic, Outcome]:
    """Trains until solved or for `steps` environment steps; `progress` is told of every evaluation."""
    generator, envs = seeded(seed), make_envs(settings.env_id, settings.envs)
    looks = Looks(settings.env_id, settings.evaluate_every, seed, progress)
    model = ActorCritic(*sizes(envs))
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, eps=1e-5)
    seen, _ = envs.reset(seed=seed)
    steps = 0
    while steps < settings.steps and not looks.solved:
        start = time.process_time()
        rollout, seen = collect(envs, model, seen, settings, generator)
        update(model, optimizer, rollout, settings)
        looks.outcome.seconds += time.process_time() - start
        steps += settings.envs * settings.rollout
        looks.look(steps, model.best)
    envs.close()
    return model, looks.outcome


@torch.no_grad()
def collect(
    envs: VectorEnv, model: ActorCritic, seen: np.ndarray, settings: A2CSettings, generator: torch.Generator
) -> tuple[Rollout, np.ndarray]:
    """Plays `rollout` steps on from what was last `seen`."""
    observations, actions, rewards, ended = [], [], [], []
    for _ in range(settings.rollout):
        observations.append(torch.as_tensor(seen, dtype=torch.float32))
        actions.append(model.act(observations[-1], generator))
        seen, reward, terminated, truncated, info = envs.step(actions[-1].numpy())
        rewards.append(torch.as_tensor(_beyond_the_limit(model, reward, truncated & ~terminated, info, settings.gamma)))
        ended.append(torch.as_tensor(terminated | truncated))
    return Rollout(
        torch.stack(observations, 1),
        torch.stack(actions, 1),
        torch.stack(rewards, 1).float(),
        torch.stack(ended, 1).float(),
        torch.as_tensor(seen, dtype=torch.float32),
    ), seen


def _beyond_the_limit(
    model: ActorCritic, rewards_E: np.ndarray, cut_E: np.ndarray, info: dict, gamma: float
) -> np.ndarray:
    """Rewards with the value of the state at which an episode's time was up: the state was no end."""
    if cut_E.any():
        final_EO = torch.as_tensor(np.stack(info["final_obs"][cut_E]), dtype=torch.float32)
        rewards_E[cut_E] += gamma * model.value(final_EO).numpy()
    return rewards_E


def update(model: ActorCritic, optimizer: torch.optim.Optimizer, rollout: Rollout, settings: A2CSettings) -> None:
    """One step on the policy gradient, the error of the values and the entropy."""
    values_ET = model.value(rollout.observations_ETO)
    with torch.no_grad():
        advantages_ET = gae(
            rollout.rewards_ET, values_ET, model.value(rollout.last_EO), rollout.ended_ET,
            gamma=settings.gamma, lam=settings.lam,
        )  # fmt: skip
    log_probs_ETA = model.actor(rollout.observations_ETO).log_softmax(-1)
    chosen_ET = log_probs_ETA.gather(2, rollout.actions_ET.unsqueeze(2)).squeeze(2)
    entropy = -(log_probs_ETA.exp() * log_probs_ETA).sum(2).mean()
    value_error = (values_ET - (advantages_ET + values_ET).detach()).square().mean()
    climb = surrogate(chosen_ET, advantages_ET) / settings.rollout + settings.entropy_weight * entropy
    optimizer.zero_grad()
    (settings.value_weight * value_error - climb).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
    optimizer.step()
