"""Nearest neighbours by cosine: how far the k-th is, and which vector of another set is nearest."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors

from finetune.curation.blocks import SAMPLE, Vectors, blocks_of, sample


def neighbour_distance(vectors_ND: Vectors, k: int, *, seed: int, reference: int = SAMPLE) -> np.ndarray:
    """Cosine distance (1 - similarity) of every vector to its k-th nearest other one, (N,) float32: large for what
    stands out (Ramaswamy, Rastogi and Shim 2000; for embeddings Sun et al. 2022).

    Neighbours are sought in a seeded sample of `reference` vectors; where N is larger, the k-th neighbour in the sample
    stands for one farther off in the whole, for all vectors alike. `k` is lowered to the number of others.
    """
    chosen = sample(len(vectors_ND), reference, seed)
    k = min(k, len(chosen) - 1)
    if k < 1:
        return np.zeros(len(vectors_ND), np.float32)
    index = NearestNeighbors(algorithm="brute").fit(np.asarray(vectors_ND[chosen], np.float32))
    found = np.empty(len(vectors_ND), np.float32)
    for start, block in blocks_of(vectors_ND):
        distance, place = index.kneighbors(block, k + 1)
        itself = chosen[place] == np.arange(start, start + len(block))[:, None]
        # A vector of the sample finds itself among its neighbours: then the one after the k-th is the k-th other.
        found[start : start + len(block)] = np.where(itself.any(axis=1), distance[:, k], distance[:, k - 1])
    return found**2 / 2  # of unit vectors: squared Euclidean distance = 2 (1 - cosine)


def nearest(vectors_ND: Vectors, others_MD: Vectors) -> tuple[np.ndarray, np.ndarray]:
    """Of every vector the greatest cosine similarity with any of `others`, (N,) float32, and which that is (N,)."""
    best = np.full(len(vectors_ND), -1, np.float32)
    which = np.zeros(len(vectors_ND), np.int64)
    for start, block in blocks_of(vectors_ND):
        here = slice(start, start + len(block))
        for first, part in blocks_of(others_MD):
            similarity = block @ part.T
            highest, place = similarity.max(axis=1), similarity.argmax(axis=1)
            better = highest > best[here]
            best[here] = np.where(better, highest, best[here])
            which[here] = np.where(better, first + place, which[here])
    return np.minimum(best, 1), which


def nearest_kept(vectors_ND: Vectors, probes: np.ndarray, kept_SN: np.ndarray) -> np.ndarray:
    """Cosine similarity of each probe (indices, P) with the nearest other vector that a selection keeps, (S, P)
    float32, for S selections (boolean); -1 where it keeps no other."""
    probe_PD = np.asarray(vectors_ND[probes], np.float32)
    best_SP = np.full((len(kept_SN), len(probes)), -1, np.float32)
    for start, block in blocks_of(vectors_ND):
        similarity_BP = block @ probe_PD.T
        inside = np.flatnonzero((probes >= start) & (probes < start + len(block)))
        similarity_BP[probes[inside] - start, inside] = -1
        for selection, kept_N in enumerate(kept_SN):
            here = kept_N[start : start + len(block)]
            if here.any():
                np.maximum(best_SP[selection], similarity_BP[here].max(axis=0), out=best_SP[selection])
    return np.minimum(best_SP, 1)
