"""Rewards of completions: from the configuration's list to scorers, and their weighted sum."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from finetune.config import RewardConfig
from finetune.rl.completion import Completion, Rule, Scorer, Unscorable
from finetune.rl.reward_process import RewardProcess
from finetune.rl.text_rewards import Exact, JsonShape, Length, Pattern, Tags

__all__ = ["Completion", "Rule", "Scorer", "Unscorable", "make_scorers", "total"]


def make_scorers(rewards: Sequence[RewardConfig]) -> list[Scorer]:
    """A scorer for each reward, in order. Close them in the end.

    Raises ConfigError where the function of a python reward cannot be had.
    """
    scorers: list[Scorer] = []
    try:
        for reward in rewards:
            scorers.append(Scorer(_name(reward, scorers), reward.weight, _rule(reward)))
    except BaseException:
        for scorer in scorers:
            scorer.close()
        raise
    return scorers


def total(scorers: Sequence[Scorer], scores: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The weighted sum of each completion's rewards; `scores` has a list for each scorer. Rewards that could not score
    it count for nothing; None where none could."""
    weights = [scorer.weight for scorer in scorers]
    return [_sum(list(zip(weights, column, strict=True))) for column in zip(*scores, strict=True)]


def _sum(weighed: list[tuple[float, float | None]]) -> float | None:
    known = [weight * score for weight, score in weighed if score is not None]
    return sum(known) if known else None


def _rule(reward: RewardConfig) -> Rule:
    match reward.type:
        case "exact":
            return Exact(reward.column, reward.extract)
        case "regex":
            return Pattern(reward.pattern)
        case "format":
            return JsonShape() if reward.shape == "json" else Tags(reward.tags)
        case "length":
            return Length(reward.min, reward.max, reward.unit)
        case "python":
            return RewardProcess(reward.function, reward.timeout)


def _name(reward: RewardConfig, before: Sequence[Scorer]) -> str:
    """The type, with the function of a python reward, and a number where that was there before."""
    name = f"python:{reward.function}" if reward.type == "python" else reward.type
    taken = {scorer.name for scorer in before}
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    return next(free for free in names if free not in taken)
