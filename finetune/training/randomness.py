"""Random numbers of a run: noted, put back, and drawn for a part of a batch as the whole batch would draw them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn import functional


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of every generator that a run draws from."""
    state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Puts a noted state back."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def begin_random(seed: int, rank: int, step: int) -> None:
    """Has the generators begin where no state of theirs is known: of a process beside the first, by the run's seed, its
    rank, and the update from which it takes part."""
    (mixed,) = np.random.SeedSequence([seed, rank, step]).generate_state(1)
    random.seed(int(mixed))
    np.random.seed(int(mixed))
    torch.manual_seed(int(mixed))


@contextmanager
def drawn_for(rows: Sequence[int], total: int) -> Iterator[None]:
    """Dropout and the sampling of tokens inside draw for a batch of `total` rows and use what falls to `rows`, which
    are what they are given.

    The functions themselves are replaced: a mode of torch's is left where `backward` begins, and checkpointed layers
    are computed again in there, on a card in a thread of its own. Dropout inside an attention kernel is out of reach.
    """
    if len(rows) == total:
        yield
        return
    whole, multinomial = functional.dropout, torch.multinomial

    def dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        if not training or p == 0.0:
            return input
        each = input.shape[0] // len(rows)  # more than one where rows and tokens are one dimension
        shape = (total * each, *input.shape[1:])
        with torch.no_grad():
            kept = whole(torch.ones(shape, dtype=input.dtype, device=input.device), p, True)
            mask = kept.view(total, each, *input.shape[1:])[list(rows)].view_as(input)
        return input.mul_(mask) if inplace else input * mask

    def sample(input: torch.Tensor, num_samples: int, **kwargs: Any) -> torch.Tensor:
        every = torch.ones((total, input.shape[1]), dtype=input.dtype, device=input.device)
        every[list(rows)] = input
        return multinomial(every, num_samples, **kwargs)[list(rows)]

    functional.dropout, torch.multinomial = dropout, sample
    try:
        yield
    finally:
        functional.dropout, torch.multinomial = whole, multinomial
