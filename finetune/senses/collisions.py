"""What is wrong with the senses of a term in a training set: those that eval lacks, and those that collide."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import fisher_exact

from finetune.senses.usage import UNDECIDED, Usage

RARER = 0.01
"""Largest p at which a sense is called rarer in eval."""


@dataclass(frozen=True)
class Difference:
    """A sense in `train` of `train_rows` rows with the term, and in `eval` of `eval_rows`. `p`: probability that eval
    had so few, were its rows drawn like those of train (Fisher's exact test)."""

    sense: str
    train: int
    train_rows: int
    eval: int
    eval_rows: int
    p: float

    @property
    def kind(self) -> str | None:
        """missing: in train alone; unseen: in eval alone; rarer: in both, in eval too few for chance."""
        if not self.eval:
            return "missing" if self.train else None
        if not self.train:
            return "unseen"
        return "rarer" if self.p < RARER else None


def difference(sense: str, train: tuple[int, int], held_out: tuple[int, int]) -> Difference:
    """Of rows with the sense and rows with the term, in both sets."""
    (a, n), (b, m) = train, held_out
    p = float(fisher_exact([[b, m - b], [a, n - a]], alternative="less").pvalue)
    return Difference(sense, a, n, b, m, p)


EVEN = 0.2
"""Share of a term's decided occurrences from which a sense is common enough to blur with another."""

BLURRED = 0.3
"""Share of undecided ones, among the occurrences that lie nearest to two senses, from which the two blur."""

FEWEST = 10
"""Such occurrences below which a share says nothing."""


@dataclass(frozen=True)
class Blurred:
    """Two common senses that contexts do not tell apart: `undecided` of the `occurrences` nearest to the two."""

    senses: tuple[str, str]
    undecided: int
    occurrences: int


def blurred(usage: Usage) -> list[Blurred]:
    """Pairs of told senses that blur; induced ones are apart by the way they are made."""
    decided = usage.of[usage.of >= 0]
    found = []
    for one, other in combinations(range(len(usage.senses)), 2):
        common = all((decided == sense).sum() >= EVEN * len(decided) for sense in (one, other))
        between = np.isin(usage.nearest, (one, other)).all(axis=1) & (usage.of >= UNDECIDED)
        undecided = int((usage.of[between] == UNDECIDED).sum())
        if common and between.sum() >= FEWEST and undecided >= BLURRED * between.sum():
            found.append(Blurred((usage.senses[one], usage.senses[other]), undecided, int(between.sum())))
    return found


@dataclass(frozen=True)
class SamePrompt:
    """A prompt that several rows have and whose answers take the term in several senses: `rows` by sense."""

    prompt: str
    rows: dict[str, list[str]]


def same_prompt(uses: Iterable[tuple[str, str, str]]) -> list[SamePrompt]:
    """Of (normalised prompt, row, sense). A row may have several senses; two rows that share one do not collide."""
    by_prompt: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for prompt, row, sense in uses:
        by_prompt[prompt][row].add(sense)
    found = []
    for prompt, rows in by_prompt.items():
        if not any(one.isdisjoint(other) for one, other in combinations(set(map(frozenset, rows.values())), 2)):
            continue
        of_sense: dict[str, list[str]] = defaultdict(list)
        for row, senses in rows.items():
            for sense in sorted(senses):
                of_sense[sense].append(row)
        found.append(SamePrompt(prompt, dict(of_sense)))
    return found
