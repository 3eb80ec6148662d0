"""The steps of a curation that look at vectors: leakage, quality, semantic duplicates, outliers, balance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from finetune.config import CurationConfig
from finetune.curation import chance, clusters, duplicates, neighbours, outliers, quality
from finetune.curation.blocks import Chosen, Vectors
from finetune.curation.chance import Chance

STEPS = ("leakage", "low_quality", "semantic_duplicate", "outlier", "balance")
"""In their order; a row that one drops is not seen by the next. Each is the rule of the rows that it drops."""


@dataclass(frozen=True)
class Reference:
    """Rows beside those that are curated: texts as vectors (M, D) float32, and what each is called, or its label."""

    vectors: np.ndarray
    names: list[str]
    good: np.ndarray


@dataclass(frozen=True)
class Step:
    """What a step drops: `rows` by number; for each its `scores` (None where it has none) and `details`. `chance`: what
    random selection of the same size gives; `facts`: other figures."""

    name: str
    rows: list[int]
    scores: list[float | None]
    details: list[str]
    chance: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Selection:
    """What the steps look at: the vectors of rows that passed the rules, and the number of each of these rows.
    `held_out` and `labelled` make the references when a step needs them."""

    settings: CurationConfig
    vectors: Vectors
    rows: np.ndarray
    held_out: Callable[[], Reference]
    labelled: Callable[[], Reference]

    def asked(self, name: str) -> bool:
        """Whether the settings ask for a step."""
        settings = self.settings
        wanted = (settings.leakage, settings.labels, settings.semantic_duplicates, settings.outliers, settings.keep)
        return bool(dict(zip(STEPS, wanted, strict=True))[name])

    def take(self, name: str, left: np.ndarray) -> Step:
        """The step, on the vectors of the places that are `left`."""
        return getattr(self, f"_{name}")(Chosen(self.vectors, left), left) if len(left) else Step(name, [], [], [])

    def _step(
        self, name: str, places: np.ndarray, scores: np.ndarray | None, details: list[str], *facts: Chance, **more: Any
    ) -> Step:
        """A step of these places; without any, nothing is compared with chance."""
        rounded = [None] * len(places) if scores is None else [round(float(score), 4) for score in scores]
        beside = [asdict(one) for one in facts] if len(places) else []
        return Step(name, self.rows[places].tolist(), rounded, details, beside, more)

    def _leakage(self, vectors: Vectors, left: np.ndarray) -> Step:
        reference = self.held_out()
        similarity, which = neighbours.nearest(vectors, reference.vectors)
        dropped = np.flatnonzero(similarity >= self.settings.leakage)
        details = [f"like {reference.names[index]} of data.eval" for index in which[dropped]]
        measure = "mean cosine similarity to the nearest row of data.eval"
        beside = [chance.mean_of(measure, similarity, dropped)] if len(dropped) else []
        return self._step("leakage", left[dropped], similarity[dropped], details, *beside)

    @cached_property
    def _quality(self) -> quality.Quality:
        reference = self.labelled()
        settings = self.settings
        return quality.learn_quality(reference.vectors, reference.good, settings.quality, seed=settings.seed)

    def _low_quality(self, vectors: Vectors, left: np.ndarray) -> Step:
        probability = self._quality.probability(vectors)
        dropped = np.flatnonzero(probability < self.settings.quality)
        details = ["probability of being good"] * len(dropped)
        found = {"logistic": self._quality.logistic, "svm": self._quality.svm}
        beside = [
            chance.hits_of(
                f"bad rows among those that the {name} drops, of labelled rows it has not seen",
                one.hits, having=one.bad, size=one.dropped, count=one.labels,
            )
            for name, one in found.items()
        ]  # fmt: skip
        facts = {
            name: {"auc": round(one.auc, 4), "precision": round(one.precision, 4), "recall": round(one.recall, 4)}
            for name, one in found.items()
        }
        return self._step("low_quality", left[dropped], probability[dropped], details, *beside, **facts)

    def _semantic_duplicate(self, vectors: Vectors, left: np.ndarray) -> Step:
        settings = self.settings
        labels = clusters.assign(vectors, settings.clusters, seed=settings.seed)
        better = self._quality.probability(vectors) if settings.labels else None
        found = duplicates.semantic_duplicates(vectors, labels, settings.semantic_duplicates, better)
        details = [f"like row {self.rows[left[index]]}" for index in found.original]
        beside = [chance.similarity_of_dropped(vectors, found.copy, seed=settings.seed)] if len(found.copy) else []
        facts = {"clusters": len(np.unique(labels))}
        return self._step("semantic_duplicate", left[found.copy], found.similarity, details, *beside, **facts)

    def _outlier(self, vectors: Vectors, left: np.ndarray) -> Step:
        settings = self.settings
        distance = neighbours.neighbour_distance(vectors, settings.neighbours, seed=settings.seed)
        dropped = outliers.farthest(distance, settings.outliers)
        if not len(dropped):
            return self._step("outlier", dropped, None, [])
        forest = outliers.farthest(outliers.isolation_score(vectors, seed=settings.seed), settings.outliers)
        common, size = len(np.intersect1d(dropped, forest)), len(dropped)
        of = f"cosine distance to neighbour {settings.neighbours}"
        beside = (
            chance.mean_of(f"mean {of}", distance, dropped),
            chance.hits_of("of them Isolation Forest would drop", common, having=size, size=size, count=len(left)),
        )
        return self._step("outlier", left[dropped], distance[dropped], [of] * size, *beside)

    def _balance(self, vectors: Vectors, left: np.ndarray) -> Step:
        settings = self.settings
        labels = clusters.assign(vectors, settings.clusters, seed=settings.seed)
        kept = clusters.balanced(labels, settings.keep, seed=settings.seed)
        dropped = np.setdiff1d(np.arange(len(left)), kept)
        details = [f"cluster {label} has its share" for label in labels[dropped]]
        beside = chance.balance_of(vectors, labels, kept, seed=settings.seed) if len(dropped) else []
        return self._step("balance", left[dropped], None, details, *beside, clusters=len(np.unique(labels)))
