"""The longest sequence and the largest micro batch that fit, found by pricing a few."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from finetune.preflight.changes import Changes, Prices
from finetune.spec import RunSpec

STEP = {"data.max_length": 128, "training.micro_batch_size": 1}
"""Grid of the search: tensor cores like multiples of 64, and nobody asks for 8,191 tokens."""
MOST = {"data.max_length": 1 << 20, "training.micro_batch_size": 1024}

Key = Literal["data.max_length", "training.micro_batch_size"]


def largest(prices: Prices, key: Key, allowed: int, *, near: float = 0.0, beside: Changes | None = None) -> int | None:
    """The largest value of `key`, `beside` other changes, with which a run takes no more than `allowed` bytes.

    None where the least is too much. A sequence is no longer than the model's positions. `near` ends the search at a
    value whose cost is within that share of `allowed`: advice need not be exact.
    """
    section, name = key.split(".")
    now = getattr(getattr(prices.spec.config, section), name)
    taken = _taken(prices.spec, key)
    found = search(
        lambda value: prices({**(beside or {}), key: taken + value}).process, now - taken, STEP[key],
        _most(prices.spec, key) - taken, allowed, near,
    )  # fmt: skip
    return found and taken + found


def search(cost: Callable[[int], int], now: int, step: int, most: int, allowed: int, near: float = 0.0) -> int | None:
    """The largest multiple of `step` up to `most` whose cost is within `allowed`, None where there is none.

    `cost` never falls. It is asked first for `now`; the value is then bracketed, and the bracket cut where a straight
    line through its ends crosses `allowed`, or in the middle where such a cut has gained little.
    """
    low, low_cost, high, high_cost, width = 0, 0, None, 0, 0
    value = min(most, max(step, now // step * step))
    while high is None or high - low > step:
        paid = cost(value)
        if paid <= allowed:
            low, low_cost = value, paid
            if low == most or (near and low_cost >= allowed * (1 - near)):
                break
        else:
            high, high_cost = value, paid
        if high is None:
            value = min(most, low * 2)
        elif low == 0:
            value = high // 2 // step * step
            if value == 0:
                break
        else:
            share = (allowed - low_cost) / (high_cost - low_cost)
            if 0 < width < 2 * (high - low):  # the line cut off less than half: halve instead
                share = 0.5
            width = high - low
            guess = low + int((high - low) * share) // step * step
            value = min(max(guess, low + step), high - step)
    return low or None


def _taken(spec: RunSpec, key: Key) -> int:
    """Tokens of a sequence that are not for the prompt, rounded up to the grid: completions are as long as they are."""
    if key != "data.max_length" or not spec.config.training.online:
        return 0
    return -(-spec.config.rollout.max_completion_length // STEP[key]) * STEP[key]


def _most(spec: RunSpec, key: Key) -> int:
    positions = getattr(spec.model_config.get_text_config(), "max_position_embeddings", None)
    if key != "data.max_length" or not positions:
        return MOST[key]
    return max(STEP[key], positions // STEP[key] * STEP[key])
