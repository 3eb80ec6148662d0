"""Clusters by k-means, and subsets that take from each alike."""

from __future__ import annotations

from math import isqrt

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from finetune.curation.blocks import SAMPLE, Vectors, blocks_of, sample

MOST = 1000
"""Clusters where none are asked for: with more, the sample that they are learned from has too few of each."""


def assign(vectors_ND: Vectors, clusters: int | None, *, seed: int) -> np.ndarray:
    """The k-means cluster of every vector, (N,) int32; centres are learned from a seeded sample. `clusters` is lowered
    to the number of different vectors; None takes the square root of N."""
    chosen = np.asarray(vectors_ND[sample(len(vectors_ND), SAMPLE, seed)], np.float32)
    wanted = clusters or min(MOST, isqrt(len(vectors_ND)))
    means = KMeans(max(1, min(wanted, len(np.unique(chosen, axis=0)))), random_state=seed)
    # Threads add up their parts of a centre in the order they end: on one thread equal seeds give equal clusters.
    with threadpool_limits(1):
        means.fit(chosen)
        return np.concatenate([means.predict(block) for _, block in blocks_of(vectors_ND)]).astype(np.int32)


def balanced(labels_N: np.ndarray, keep: int, *, seed: int) -> np.ndarray:
    """Indices, in order, of `keep` rows, as many from each cluster as can be: small clusters whole, of the others a
    seeded sample of equal size."""
    sizes = np.bincount(labels_N)
    quota = _quotas(sizes, keep)
    generator = np.random.default_rng(seed)
    members = np.split(np.argsort(labels_N, kind="stable"), np.cumsum(sizes)[:-1])
    taken = [generator.choice(rows, take, replace=False) for rows, take in zip(members, quota, strict=True)]
    return np.sort(np.concatenate(taken))


def _quotas(sizes: np.ndarray, keep: int) -> np.ndarray:
    """How many to take of each cluster: the level L for which the sum of min(size, L) is `keep`, the rest by one."""
    keep = min(keep, int(sizes.sum()))
    low, high = 0, int(sizes.max())
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if np.minimum(sizes, level).sum() <= keep else (low, level - 1)
    quota = np.minimum(sizes, low)
    larger = np.flatnonzero(sizes > low)[: keep - quota.sum()]
    quota[larger] += 1
    return quota


def entropy(labels: np.ndarray) -> float:
    """Entropy of how rows spread over clusters, in bits: log2 of the number of clusters where all are alike."""
    share = np.bincount(labels) / len(labels)
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())
