"""The senses of words, fitted to labelled occurrences: which words share a sense, and where each sense lies."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune.embeddings import LayerEncoder
from finetune.senses.baselines import BagOfWords
from finetune.senses.nearest import Centroids
from finetune.senses.rows import Label, SenseRow, by_lemma
from finetune.senses.views import VIEWS, Rarity

SHARED = 0.8
"""Mean recall from which labels are taken to mean the same for several words: that of senses told by the other words'
rows alone. Of labels that are mere numbers of each word's own senses it is near chance."""


@dataclass(frozen=True)
class Group:
    """Words whose senses are told by the same centroids, on one of VIEWS. `counts`: training rows by word and label."""

    view: str
    counts: dict[str, dict[Label, int]]
    centroids: Centroids


@dataclass(frozen=True)
class Prediction:
    """A row's sense; `confidence` is its probability under the model, which is not calibrated."""

    lemma: str
    label: Label
    confidence: float


@dataclass(frozen=True)
class SenseModel:
    """The senses of words as the vectors of one encoder see them; `words`, the bag of words of each, stands beside."""

    encoder: str
    rarity: Rarity
    groups: list[Group]
    words: dict[str, BagOfWords]

    @property
    def lemmas(self) -> dict[str, Group]:
        """The group of each word."""
        return {lemma: group for group in self.groups for lemma in group.counts}

    def predict(self, rows: Sequence[SenseRow], encoder: LayerEncoder) -> list[Prediction]:
        """Senses of rows whose words are known, in their order."""
        found: list[Prediction | None] = [None] * len(rows)
        for group in self.groups:
            places = [at for at, row in enumerate(rows) if row.lemma in group.counts]
            if not places:
                continue
            occurrences = [rows[at].occurrence for at in places]
            shares = group.centroids.probabilities(VIEWS[group.view](encoder, occurrences, self.rarity))
            for at, share in zip(places, shares, strict=True):
                best = int(share.argmax())
                found[at] = Prediction(rows[at].lemma, group.centroids.labels[best], float(share[best]))
        return found


def fit(rows: Sequence[SenseRow], encoder: LayerEncoder) -> SenseModel:
    """Senses of labelled rows; each word has two and more. Words that have the same labels, and whose senses are told
    by each other's rows, are fitted as one on the `hidden` view; every other by itself on the `whole`."""
    rarity = Rarity.of(encoder.token_ids([row.occurrence.text for row in rows]))
    of_lemma, families = by_lemma(rows), defaultdict(list)
    for lemma, counts in _counts(rows).items():
        families[frozenset(counts)].append(lemma)
    groups = []
    for lemmas in families.values():
        of_family = [row for lemma in lemmas for row in of_lemma[lemma]]
        shared = _shared(of_family, encoder, rarity) if len(lemmas) > 1 else None
        groups += [shared] if shared else [_alone(of_lemma[lemma], encoder, rarity) for lemma in lemmas]
    words = {lemma: BagOfWords.fit(found) for lemma, found in of_lemma.items()}
    return SenseModel(encoder.name, rarity, groups, words)


def _shared(rows: Sequence[SenseRow], encoder: LayerEncoder, rarity: Rarity) -> Group | None:
    """One group of all words of the rows, or None where their labels do not mean the same."""
    vectors, labels = VIEWS["hidden"](encoder, [row.occurrence for row in rows], rarity), [row.label for row in rows]
    if transfer([row.lemma for row in rows], labels, vectors) < SHARED:
        return None
    return Group("hidden", _counts(rows), Centroids.fit(vectors, labels))


def _alone(rows: Sequence[SenseRow], encoder: LayerEncoder, rarity: Rarity) -> Group:
    """The group of one word."""
    vectors = VIEWS["whole"](encoder, [row.occurrence for row in rows], rarity)
    return Group("whole", _counts(rows), Centroids.fit(vectors, [row.label for row in rows]))


def transfer(lemmas: Sequence[str], labels: Sequence[Label], vectors: np.ndarray) -> float:
    """Mean recall over words and senses, each word's told by centroids of the other words' rows."""
    recalls = []
    for lemma in set(lemmas):
        own = np.array([one == lemma for one in lemmas])
        others = [label for label, mine in zip(labels, own, strict=True) if not mine]
        told = Centroids.fit(vectors[~own], others).predict(vectors[own])
        true = [label for label, mine in zip(labels, own, strict=True) if mine]
        for sense in set(true):
            recalls.append(np.mean([one == sense for one, label in zip(told, true, strict=True) if label == sense]))
    return float(np.mean(recalls))


def _counts(rows: Sequence[SenseRow]) -> dict[str, dict[Label, int]]:
    return {lemma: dict(Counter(row.label for row in found)) for lemma, found in by_lemma(rows).items()}
