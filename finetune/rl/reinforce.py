"""REINFORCE with a learned state value as its baseline (Williams 1992; Sutton and Barto 2018, section 13.4).

Whole episodes are played, then weighed by their rewards to go less the baseline. No bootstrapping: the estimate has no
bias and much variance. Shapes: E environments, T steps of the longest episode.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from gymnasium.vector import VectorEnv

from finetune.rl.actor_critic import ActorCritic
from finetune.rl.environments import Looks, Outcome, make_envs, seeded, sizes
from finetune.rl.policy_gradient import reward_to_go, surrogate


@dataclass(frozen=True)
class ReinforceSettings:
    """Settings; one episode in each of `envs` environments makes an update. `baseline` off leaves the return alone."""

    env_id: str = "CartPole-v1"
    steps: int = 500_000
    envs: int = 16
    gamma: float = 0.99
    learning_rate: float = 5e-3
    value_steps: int = 5
    baseline: bool = True
    entropy_weight: float = 0.0
    evaluate_every: int = 10_000


@dataclass(frozen=True)
class Episodes:
    """One episode of each environment, padded behind its end, where `going_ET` is 0."""

    observations_ETO: torch.Tensor
    actions_ET: torch.Tensor
    rewards_ET: torch.Tensor
    going_ET: torch.Tensor


def train(
    settings: ReinforceSettings, seed: int, progress: Callable[[int, float], None] | None = None
) -> tuple[ActorCritic, Outcome]:
    """Trains until solved or for `steps` environment steps; `progress` is told of every evaluation."""
    generator, envs = seeded(seed), make_envs(settings.env_id, settings.envs)
    looks = Looks(settings.env_id, settings.evaluate_every, seed, progress)
    model = ActorCritic(*sizes(envs))
    actor = torch.optim.Adam(model.actor.parameters(), lr=settings.learning_rate)
    critic = torch.optim.Adam(model.critic.parameters(), lr=settings.learning_rate)
    steps, episode_seed = 0, seed
    while steps < settings.steps and not looks.solved:
        start = time.process_time()
        episodes = play(envs, model, generator, episode_seed)
        episode_seed = None  # the environments' own generators go on
        update(model, actor, critic, episodes, settings)
        looks.outcome.seconds += time.process_time() - start
        steps += int(episodes.going_ET.sum())
        looks.look(steps, model.best)
    envs.close()
    return model, looks.outcome


@torch.no_grad()
def play(envs: VectorEnv, model: ActorCritic, generator: torch.Generator, seed: int | None) -> Episodes:
    """Plays until the first episode of every environment has ended."""
    seen, _ = envs.reset(seed=seed)
    observations, actions, rewards, going = [], [], [], []
    alive_E = torch.ones(envs.num_envs)
    while alive_E.any():
        observations.append(torch.as_tensor(seen, dtype=torch.float32))
        actions.append(model.act(observations[-1], generator))
        seen, reward, terminated, truncated, _ = envs.step(actions[-1].numpy())
        rewards.append(torch.as_tensor(reward).float() * alive_E)
        going.append(alive_E)
        alive_E = alive_E * torch.as_tensor(~(terminated | truncated)).float()
    return Episodes(*(torch.stack(steps, 1) for steps in (observations, actions, rewards, going)))


def update(
    model: ActorCritic,
    actor: torch.optim.Optimizer,
    critic: torch.optim.Optimizer,
    episodes: Episodes,
    settings: ReinforceSettings,
) -> None:
    """One step of the actor, on scores weighed by what the critic did not expect and on the policy's entropy, then
    `value_steps` of the critic."""
    returns_ET = reward_to_go(episodes.rewards_ET, settings.gamma)
    weights_ET = returns_ET - model.value(episodes.observations_ETO) if settings.baseline else returns_ET
    log_probs_ETA = model.actor(episodes.observations_ETO).log_softmax(-1)
    chosen_ET = log_probs_ETA.gather(2, episodes.actions_ET.unsqueeze(2)).squeeze(2)
    steps = episodes.going_ET.sum() / len(episodes.going_ET)
    entropy_ET = -(log_probs_ETA.exp() * log_probs_ETA).sum(2) * episodes.going_ET
    climb = surrogate(chosen_ET, weights_ET * episodes.going_ET) / steps
    climb = climb + settings.entropy_weight * entropy_ET.sum() / episodes.going_ET.sum()
    actor.zero_grad()
    (-climb).backward()
    actor.step()
    for _ in range(settings.value_steps if settings.baseline else 0):
        error_ET = (model.value(episodes.observations_ETO) - returns_ET) * episodes.going_ET
        critic.zero_grad()
        (error_ET.square().sum() / episodes.going_ET.sum()).backward()
        critic.step()
