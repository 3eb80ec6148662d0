"""Multi-sense embeddings: a word's occurrences clustered, each cluster a sense of its own, named by labelled rows.

Senses are found without labels (Reisinger and Mooney 2010); labels only name them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

from finetune.senses.rows import Label

MOST = 6
"""Senses that are tried at most."""

SAMPLE = 1_000
"""Occurrences that a silhouette is taken over: it compares all pairs."""


@dataclass(frozen=True)
class InducedSenses:
    """The senses found in a word's occurrences: `centres` (k, D) of unit length, and what each is called."""

    centres: np.ndarray
    labels: list[Label]

    def assign(self, vectors: np.ndarray) -> np.ndarray:
        """The induced sense of each, (n,)."""
        return (vectors @ self.centres.T).argmax(1)

    def predict(self, vectors: np.ndarray) -> list[Label]:
        """What the nearest induced sense is called."""
        return [self.labels[at] for at in self.assign(vectors)]

    def agreement(self, vectors: np.ndarray, labels: Sequence[Label]) -> float:
        """Adjusted Rand index of induced senses and labels: 0 at chance, 1 where they part the rows alike."""
        return float(adjusted_rand_score([str(label) for label in labels], self.assign(vectors)))


def induce(vectors: np.ndarray, labels: Sequence[Label], seed: int = 0) -> InducedSenses:
    """Clusters occurrences by k-means on vectors of unit length, (n, D), n ≥ 3, with the k from 2 to MOST that has the
    largest mean silhouette (Rousseeuw 1987), and names each cluster by the commonest label of its rows."""
    tried = [KMeans(k, n_init=4, random_state=seed).fit(vectors) for k in range(2, min(MOST, len(vectors) - 1) + 1)]
    best = max(tried, key=lambda found: _silhouette(vectors, found.labels_, seed))
    centres = best.cluster_centers_ / np.maximum(np.linalg.norm(best.cluster_centers_, axis=1, keepdims=True), 1e-12)
    overall = Counter(labels).most_common(1)[0][0]
    places = (vectors @ centres.T).argmax(1)
    names = []
    for cluster in range(len(centres)):
        inside = Counter(label for label, at in zip(labels, places, strict=True) if at == cluster)
        names.append(inside.most_common(1)[0][0] if inside else overall)
    return InducedSenses(centres, names)


def _silhouette(vectors: np.ndarray, clusters: np.ndarray, seed: int) -> float:
    if len(set(clusters.tolist())) < 2:
        return -1.0
    size = SAMPLE if len(vectors) > SAMPLE else None
    try:
        return float(silhouette_score(vectors, clusters, sample_size=size, random_state=seed))
    except ValueError:  # the sample fell into one cluster
        return -1.0
