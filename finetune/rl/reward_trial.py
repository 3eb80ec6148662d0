"""Rewards tried before a run learns from them: on the answers of the data, then on groups of the model's completions.

The advantage of a completion is its reward less the others' of its group (baselines.py). Where a group's rewards are
all equal every advantage is 0: the group is dead, and nothing is learned from it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from finetune.errors import DataError
from finetune.rl.completion import Completion, Scorer, Unscorable
from finetune.rl.rewards import total
from finetune.rl.text_rewards import Exact

SHOWN = 5
"""Faults of one reward that are named; after as many on answers, the others are not tried."""

EQUAL = 1e-8
"""Largest standard deviation of equal rewards; TRL takes the same."""

NO_ANSWERS = "no row has an answer of its own: rewards were tried on empty completions"


def try_on_answers(scorers: Sequence[Scorer], completions: Sequence[Completion]) -> list[str]:
    """Scores the rows' own answers, given as completions; returns what was found.

    Raises DataError where a reward cannot score one of them, or an exact one compares with what nobody would write.
    """
    notes, problems, hints = [], [], []
    for scorer in scorers:
        scores, faults = _until_too_many(scorer, completions)
        if faults:
            problems += _named(scorer, faults, len(scores))
            hints.append(scorer.rule.hint)
        elif isinstance(scorer.rule, Exact) and (long := _whole_answers(scorer.rule, completions)):
            problems.append(f"{scorer.name} {long}")
            hints.append("write an extract that finds the result in the answers too, or name a column that holds it")
        else:
            notes += _of_answers(scorer, completions, scores)
    if problems:
        raise DataError("\n".join(problems), "; ".join(dict.fromkeys(filter(None, hints))))
    return notes if any(one.answer for one in completions) else [NO_ANSWERS]


def _until_too_many(scorer: Scorer, completions: Sequence[Completion]) -> tuple[list[float | None], list[str]]:
    """Scores and faults; fewer scores than completions where it gave up, for each may have taken its time limit."""
    scores, faults = [], []
    for completion in completions:
        scores += scorer.score([completion])
        faults += scorer.faults
        if len(faults) == SHOWN:
            break
    return scores, faults


def _named(scorer: Scorer, faults: Sequence[str], tried: int) -> list[str]:
    """How many completions a reward failed on, and the first of them."""
    more = [f"  and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
    title = f"{scorer.name} could not score {len(faults):,} of {tried:,} completions tried"
    return [title, *(f"  {fault}" for fault in faults[:SHOWN]), *more]


def _whole_answers(rule: Exact, completions: Sequence[Completion]) -> str:
    """Said where the pattern is found in no right answer, so that all of each is compared, and all have several lines:
    a text that the pattern's group does not hold. A short answer may well stand between marks that the completion has
    and the answer lacks."""
    try:
        rights = [rule.right(one) for one in completions]
        unmatched = [right for right in rights if rule.extracted(right) is None and "\n" in right.strip()]
    except Unscorable:
        return ""
    if not rights or len(unmatched) < len(rights):
        return ""
    first = f"{_short(rights[0])} ({completions[0].where})"
    return (
        f"gives 0 to every right answer: extract={rule.extract.pattern!r} is found in none of {len(rights):,}, so that "
        f"a completion would have to hold all of one, several lines, such as {first}"
    )


def _of_answers(scorer: Scorer, completions: Sequence[Completion], scores: Sequence[float | None]) -> list[str]:
    """What a reward gives to the answers of the data."""
    known = [score for one, score in zip(completions, scores, strict=True) if one.answer and score is not None]
    if not known:
        return []
    if not any(known):
        return [f"{scorer.name} gives 0 to all {_of(known, 'answer')} of the data: they may not be written as it asks"]
    return [f"{scorer.name} gives {fmean(known):.3g} on average to {_of(known, 'answer')} of the data"]


@dataclass(frozen=True)
class Trial:
    """What rewards gave to groups of completions: each group's sums, and what could not be scored.

    `notes` say it to people; `spread` is the mean standard deviation within a group and `dead` the share of groups
    without any. `lengths` are in tokens and `cut` is the share of completions that reached the longest one allowed
    (None where that is not known); `idle` are the rewards that are equal within every group.
    """

    groups: list[list[float]]
    means: dict[str, float]
    idle: list[str]
    faults: list[str]
    hints: list[str]
    lengths: list[int]
    cut: float | None
    example: str

    @property
    def rewards(self) -> list[float]:
        """The sums of all completions."""
        return [reward for group in self.groups for reward in group]

    @property
    def spread(self) -> float:
        """Mean over groups of the standard deviation of rewards."""
        return fmean(map(_deviation, self.groups))

    @property
    def dead(self) -> float:
        """Share of groups that teach nothing."""
        return fmean(_deviation(group) <= EQUAL for group in self.groups)

    @property
    def notes(self) -> list[str]:
        """What was found, in words."""
        if not self.rewards:
            return []
        parts = ", ".join(f"{name} {mean:.3g}" for name, mean in self.means.items())
        cut = f"; {self.cut:.0%} of them reached rollout.max_completion_length" if self.cut else ""
        lines = [
            f"rewards of {_of(self.rewards, 'completion')} of {_of(self.groups, 'prompt')}: mean "
            f"{fmean(self.rewards):.3g} ({parts}), spread within a prompt {self.spread:.3g}, "
            f"{self.dead:.0%} of groups dead",
            f"completions have {fmean(self.lengths):.0f} tokens on average{cut}",
        ]
        if self.dead < 1:
            lines += [f"{name} is equal within every group: it teaches nothing yet" for name in self.idle]
        return lines

    def require(self) -> None:
        """Raises DataError where a reward failed on a completion, or every group is dead."""
        if self.faults:
            raise DataError("\n".join(self.faults), "; ".join(dict.fromkeys(filter(None, self.hints))))
        if self.dead == 1:
            raise DataError(f"nothing can be learned from these rewards: {self._equal()}{self.example}", self._advice())

    def _equal(self) -> str:
        low, high, count = min(self.rewards), max(self.rewards), _of(self.rewards, "completion")
        if high - low > EQUAL:
            groups = _of(self.groups, "prompt")
            return f"within each of {groups} all are equal, though between prompts they go from {low:.3g} to {high:.3g}"
        return f"all {count} of {_of(self.groups, 'prompt')} have the same, {low:.3g}"

    def _advice(self) -> str:
        if max(self.rewards) <= 0:
            first = ["teach the format by sft first", "take easier prompts", "reward part of the way as well"]
        else:
            first = ["take harder prompts", "add a reward that tells these completions apart"]
        length = ["raise rollout.max_completion_length"] if self.cut and self.cut > 0.5 else []
        sampling = "raise rollout.num_generations or rollout.temperature"
        return "; ".join([*length, *first, sampling, "rollout.trial_prompts=0 skips this trial"])


def judge(
    scorers: Sequence[Scorer],
    groups: Sequence[Sequence[Completion]],
    scores: Sequence[Sequence[float | None]],
    longest: int | None = None,
) -> Trial:
    """The trial on groups of completions, a group answering one prompt.

    `scores` has a list for each scorer, of all completions in order, from its latest call; `longest` is the limit of a
    completion in tokens.
    """
    completions = [one for group in groups for one in group]
    sizes = [len(group) for group in groups]
    failed = [scorer for scorer in scorers if scorer.faults]
    by_reward = {scorer.name: _known(column, sizes) for scorer, column in zip(scorers, scores, strict=True)}
    return Trial(
        groups=_known(total(scorers, scores), sizes),
        means={name: fmean(itertools.chain(*found)) for name, found in by_reward.items() if any(found)},
        idle=[name for name, found in by_reward.items() if all(_deviation(group) <= EQUAL for group in found)],
        faults=[line for scorer in failed for line in _named(scorer, scorer.faults, len(completions))],
        hints=[scorer.rule.hint for scorer in failed],
        lengths=[one.tokens for one in completions],
        cut=None if longest is None else fmean(one.tokens >= longest for one in completions),
        example=f", such as {_short(completions[0].text)} ({completions[0].where})",
    )


def _known(scores: Sequence[float | None], sizes: Sequence[int]) -> list[list[float]]:
    """Scores by group, without those that are unknown."""
    left = iter(scores)
    return [[score for score in (next(left) for _ in range(size)) if score is not None] for size in sizes]


def _deviation(rewards: Sequence[float]) -> float:
    return stdev(rewards) if len(rewards) > 1 else 0.0


def _of(items: Sequence[object], noun: str) -> str:
    return f"{len(items):,} {noun}{'' if len(items) == 1 else 's'}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…")
