"""Deep Q-learning (Mnih et al. 2015): a network of action values learns from its own next estimates.

Two crutches keep that from running away: replay breaks the correlation of what is learned from, and a target network
holds the estimates still for a while. Double DQN (van Hasselt et al. 2016) chooses the next action by one network and
values it by the other. Departures from the papers: small dense networks; several environments side by side; rounds of
many gradient steps between many environment steps, in place of one every four; Adam, and gradients cut by their norm.
Shapes: E environments, B transitions of a batch.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from finetune.rl.environments import Looks, Outcome, make_envs, mlp, seeded, sizes
from finetune.rl.replay import Replay, Transitions


@dataclass(frozen=True)
class DQNSettings:
    """Settings; steps are those of environments, but for `target_every`, which counts gradient steps. `target_every=0`
    has no target network, `replay=False` learns from the newest transitions alone."""

    env_id: str = "CartPole-v1"
    steps: int = 50_000
    envs: int = 4
    hidden: int = 256
    gamma: float = 0.99
    learning_rate: float = 2.3e-3
    batch: int = 64
    capacity: int = 100_000
    learning_starts: int = 1_000
    train_every: int = 256
    gradient_steps: int = 128
    target_every: int = 128
    double: bool = True
    replay: bool = True
    exploration: float = 0.16
    final_epsilon: float = 0.04
    max_grad_norm: float = 10.0
    evaluate_every: int = 2_048


class Agent:
    """The network that learns, the one that holds still, and the step from one to the other."""

    def __init__(self, settings: DQNSettings, observation: int, actions: int) -> None:
        self.settings = settings
        self.online = mlp(observation, actions, settings.hidden, torch.nn.ReLU)
        self.target = copy.deepcopy(self.online) if settings.target_every else self.online
        self.optimizer = torch.optim.Adam(self.online.parameters(), lr=settings.learning_rate)
        self.updates = 0

    def best(self, observations_EO: torch.Tensor) -> torch.Tensor:
        """The actions of the highest value (E)."""
        return self.online(observations_EO).argmax(1)

    @torch.no_grad()
    def targets(self, batch: Transitions) -> torch.Tensor:
        """r + gamma max Q(s', .), nothing behind a terminal state (B)."""
        values_BA = self.target(batch.next_observations)
        chosen_B1 = (self.online(batch.next_observations) if self.settings.double else values_BA).argmax(
            1, keepdim=True
        )
        return batch.rewards + self.settings.gamma * (1 - batch.terminated) * values_BA.gather(1, chosen_B1).squeeze(1)

    def learn(self, batch: Transitions) -> float:
        """One gradient step on the Huber loss of the TD errors, which it returns; then `sync`, where it is time to."""
        values_B = self.online(batch.observations).gather(1, batch.actions.unsqueeze(1)).squeeze(1)
        loss = torch.nn.functional.smooth_l1_loss(values_B, self.targets(batch))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.online.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.updates += 1
        if self.settings.target_every and self.updates % self.settings.target_every == 0:
            self.sync()
        return float(loss.detach())

    def sync(self) -> None:
        """The target network becomes what the other is now."""
        if self.target is not self.online:
            self.target.load_state_dict(self.online.state_dict())


def train(
    settings: DQNSettings,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
    watch: Callable[[int, Agent, Replay], None] | None = None,
) -> tuple[Agent, Outcome]:
    """Trains until solved or for `steps`; `progress` is told of every evaluation, and `watch`, where given, at the same
    steps, to the end."""
    generator, envs = seeded(seed), make_envs(settings.env_id, settings.envs)
    looks = Looks(settings.env_id, settings.evaluate_every, seed, progress)
    agent = Agent(settings, *sizes(envs))
    replay = Replay(settings.capacity if settings.replay else settings.train_every, sizes(envs)[0], seed)
    seen, _ = envs.reset(seed=seed)
    steps, next_train = 0, settings.learning_starts
    while steps < settings.steps and (watch or not looks.solved):
        start = time.process_time()
        epsilon = _epsilon(settings, steps)
        actions = _explore(agent, seen, epsilon, generator)
        following, rewards, terminated, truncated, info = envs.step(actions)
        replay.add(seen, actions, rewards, _before_reset(following, terminated | truncated, info), terminated)
        seen, steps = following, steps + settings.envs
        if steps >= next_train:
            next_train += settings.train_every
            for _ in range(settings.gradient_steps):
                agent.learn(replay.sample(settings.batch))
        looks.outcome.seconds += time.process_time() - start
        if looks.look(steps, agent.best) and watch:
            watch(steps, agent, replay)
    envs.close()
    return agent, looks.outcome


def _epsilon(settings: DQNSettings, steps: int) -> float:
    """Share of random actions: from 1 down in a line over the `exploration` share of all steps."""
    done = min(1.0, steps / (settings.exploration * settings.steps))
    return 1 + done * (settings.final_epsilon - 1)


@torch.no_grad()
def _explore(agent: Agent, seen: np.ndarray, epsilon: float, generator: torch.Generator) -> np.ndarray:
    values_EA = agent.online(torch.as_tensor(seen, dtype=torch.float32))
    randomly_E = torch.rand(len(values_EA), generator=generator) < epsilon
    drawn_E = torch.randint(values_EA.shape[1], (len(values_EA),), generator=generator)
    return torch.where(randomly_E, drawn_E, values_EA.argmax(1)).numpy()


def _before_reset(following: np.ndarray, ended: np.ndarray, info: dict) -> np.ndarray:
    """What followed each action, where an episode ended its own last observation."""
    if ended.any():
        following = following.copy()
        following[ended] = np.stack(info["final_obs"][ended])
    return following
