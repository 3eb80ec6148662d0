"""Environments of Gymnasium, several at a time, and how a policy is judged in them.

Shapes: E environments side by side, O numbers of an observation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

EPISODES = 20
"""Episodes of an evaluation."""

SOLVED = {"CartPole-v1": 475.0, "Acrobot-v1": -100.0}
"""Mean return from which an environment counts as solved: Gymnasium's reward thresholds."""

Policy = Callable[[torch.Tensor], torch.Tensor]
"""Observations (E, O) to actions (E)."""


@dataclass
class Outcome:
    """What a training gave: `curve` holds (environment steps, mean return of an evaluation); `solved_at` is the number
    of steps at the first evaluation that solved it, None where none did; `seconds` are the processor's, of training
    alone: on one thread those of the clock, had nobody else been on the machine."""

    curve: list[tuple[int, float]] = field(default_factory=list)
    solved_at: int | None = None
    seconds: float = 0.0

    def judge(self, env_id: str, policy: Policy, steps: int, seed: int) -> bool:
        """Evaluates, notes it, and says whether the environment is solved."""
        score = evaluate(env_id, policy, seed)
        self.curve.append((steps, score))
        if score >= SOLVED[env_id] and self.solved_at is None:
            self.solved_at = steps
        return self.solved_at is not None


@dataclass
class Looks:
    """Evaluates a policy while it is trained, each time `every` further environment steps are done; `progress` is told
    of every evaluation."""

    env_id: str
    every: int
    seed: int
    progress: Callable[[int, float], None] | None = None
    outcome: Outcome = field(default_factory=Outcome)
    _done: int = 0

    @property
    def solved(self) -> bool:
        """Whether an evaluation solved the environment."""
        return self.outcome.solved_at is not None

    def look(self, steps: int, policy: Policy) -> bool:
        """Evaluates where it is time to; whether it was."""
        if steps < self._done + self.every:
            return False
        self._done += self.every
        self.outcome.judge(self.env_id, policy, steps, self.seed)
        if self.progress:
            self.progress(*self.outcome.curve[-1])
        return True


def make_envs(env_id: str, count: int) -> VectorEnv:
    """`count` environments in one process. An episode that ends is begun anew in the same step; what was last seen of
    it is in `info["final_obs"]`."""
    return gymnasium.make_vec(
        env_id, count, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
    )


def sizes(envs: VectorEnv) -> tuple[int, int]:
    """Numbers of an observation, and actions."""
    return envs.single_observation_space.shape[0], int(envs.single_action_space.n)


def mlp(
    inputs: int,
    outputs: int,
    hidden: int = 64,
    activation: type[torch.nn.Module] = torch.nn.Tanh,
    last_gain: float | None = None,
) -> torch.nn.Sequential:
    """Two hidden layers. With `last_gain`, weights are orthogonal (Saxe et al. 2014), the last layer's in that scale: a
    small one begins with a policy that prefers nothing."""
    sizes = (inputs, hidden, hidden, outputs)
    layers = [torch.nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
    for layer in layers if last_gain is not None else []:
        torch.nn.init.orthogonal_(layer.weight, last_gain if layer is layers[-1] else 2**0.5)
        torch.nn.init.zeros_(layer.bias)
    return torch.nn.Sequential(layers[0], activation(), layers[1], activation(), layers[2])


@torch.no_grad()
def evaluate(env_id: str, policy: Policy, seed: int, episodes: int = EPISODES) -> float:
    """Mean return of one episode in each of `episodes` environments, begun from seeds of their own."""
    envs = make_envs(env_id, episodes)
    observations, _ = envs.reset(seed=[1_000_000 + 1000 * seed + index for index in range(episodes)])
    returns, going_on = np.zeros(episodes), np.ones(episodes, bool)
    while going_on.any():
        actions = policy(torch.as_tensor(observations, dtype=torch.float32))
        observations, rewards, terminated, truncated, _ = envs.step(actions.numpy())
        returns += rewards * going_on
        going_on &= ~(terminated | truncated)
    envs.close()
    return float(returns.mean())


def seeded(seed: int) -> torch.Generator:
    """Seeds torch's own generator, which networks are drawn from, and gives another for actions."""
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)
