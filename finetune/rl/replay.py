"""A ring of transitions, sampled uniformly (experience replay; Lin 1992)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Transitions:
    """B transitions; `terminated` is 1 where the next state is an end, and not where time was up."""

    observations: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    next_observations: torch.Tensor
    terminated: torch.Tensor


class Replay:
    """Keeps the newest `capacity` transitions."""

    def __init__(self, capacity: int, observation: int, seed: int) -> None:
        self.capacity, self.size, self._at = capacity, 0, 0
        self._generator = torch.Generator().manual_seed(seed)
        self._kept = Transitions(
            torch.zeros(capacity, observation),
            torch.zeros(capacity, dtype=torch.long),
            torch.zeros(capacity),
            torch.zeros(capacity, observation),
            torch.zeros(capacity),
        )

    def add(
        self, seen: np.ndarray, actions: np.ndarray, rewards: np.ndarray, following: np.ndarray, terminated: np.ndarray
    ) -> None:
        """One transition of each environment; the oldest give way."""
        places = torch.arange(self._at, self._at + len(actions)) % self.capacity
        for name, values in zip(
            Transitions.__dataclass_fields__, (seen, actions, rewards, following, terminated), strict=True
        ):
            column = getattr(self._kept, name)
            column[places] = torch.as_tensor(values).to(column.dtype)
        self._at = (self._at + len(actions)) % self.capacity
        self.size = min(self.size + len(actions), self.capacity)

    def sample(self, count: int) -> Transitions:
        """`count` transitions, with replacement."""
        return self.at(torch.randint(self.size, (count,), generator=self._generator))

    def at(self, places: torch.Tensor) -> Transitions:
        """The transitions at these places."""
        return Transitions(*(getattr(self._kept, name)[places] for name in Transitions.__dataclass_fields__))

    def terminal_share(self) -> float:
        """Share of the transitions kept that end an episode."""
        return float(self._kept.terminated[: self.size].mean()) if self.size else 0.0
