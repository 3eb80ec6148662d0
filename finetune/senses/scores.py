"""How well senses are told: accuracy, recall of each sense with intervals, confusion; pairs, separation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from finetune.senses.rows import Label

RESAMPLES = 2_000
"""Bootstrap resamples of the rows of an interval."""


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % bootstrap interval over rows (percentiles; Efron 1979)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """Of one word: `accuracy`; `macro_recall`, the mean over senses; `recall` of each sense that occurs; `confusion`,
    rows by true sense and then by the one told."""

    rows: int
    accuracy: Interval
    macro_recall: Interval
    recall: dict[Label, float]
    confusion: dict[Label, dict[Label, int]]

    def to_json(self) -> dict[str, Any]:
        """Figures; intervals as [low, high]."""
        return {
            "rows": self.rows,
            "accuracy": self.accuracy.value,
            "accuracy_interval": [self.accuracy.low, self.accuracy.high],
            "macro_recall": self.macro_recall.value,
            "macro_recall_interval": [self.macro_recall.low, self.macro_recall.high],
            "recall": {str(sense): share for sense, share in self.recall.items()},
            "confusion": {
                str(sense): {str(told): number for told, number in row.items()} for sense, row in self.confusion.items()
            },
        }


def scores(gold: Sequence[Label], told: Sequence[Label], seed: int = 0) -> Scores:
    """Of rows that have a label; there is one at least. Rows are resampled within each sense, so that no resample
    lacks one."""
    confusion: dict[Label, Counter[Label]] = defaultdict(Counter)
    right: dict[Label, list[bool]] = defaultdict(list)
    for one, other in zip(gold, told, strict=True):
        confusion[one][other] += 1
        right[one].append(one == other)
    rng = np.random.default_rng(seed)
    counts = np.array([len(found) for found in right.values()])
    hits = np.array([sum(found) for found in right.values()])
    drawn = rng.binomial(counts, hits / counts, (RESAMPLES, len(counts)))  # a resample of a sense's rows has so many
    accuracy = _interval(hits.sum() / counts.sum(), drawn.sum(1) / counts.sum())
    macro = _interval((hits / counts).mean(), (drawn / counts).mean(1))
    recall = dict(zip(right, (hits / counts).tolist(), strict=True))
    return Scores(len(gold), accuracy, macro, recall, {sense: dict(row) for sense, row in confusion.items()})


def _interval(value: float, resampled: np.ndarray) -> Interval:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def pair_accuracy(same: Sequence[bool], cosines: np.ndarray, fitted_same: Sequence[bool], fitted: np.ndarray) -> float:
    """WiC (Pilehvar and Camacho-Collados 2019): is a word meant alike in two sentences? Pairs from the threshold
    upwards are taken for it, the threshold with the most right of the pairs fitted to."""
    truth = np.asarray(fitted_same)
    cuts = np.sort(fitted)
    best = max(cuts, key=lambda cut: float(((fitted >= cut) == truth).mean()))
    return float(((cosines >= best) == np.asarray(same)).mean())


def separation(vectors: np.ndarray, labels: Sequence[Label]) -> float:
    """How far senses lie apart: ROC AUC of the cosine as a sign that two occurrences have one sense; 0.5 where the
    vectors do not know it, 1 where every pair of one sense is closer than any of two. NaN where all pairs are alike.
    Cosines that are one to six decimals are ties: rounding sets equal vectors apart.

    Of two encoders, or a model before and after fine-tuning, on the same rows: the larger one tells senses better.
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    names = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    numbers = np.array([names[label] for label in labels])
    above = np.triu_indices(len(labels), 1)
    same = (numbers[:, None] == numbers)[above]
    return float(roc_auc_score(same, np.round(unit @ unit.T, 6)[above])) if 0 < same.sum() < len(same) else float("nan")
