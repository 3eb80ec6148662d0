"""Semantic duplicates: vectors nearly the same as another one of their cluster (SemDeDup, Abbas et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finetune.curation.blocks import Vectors

WINDOW = 512
"""Members of a cluster compared at a time with those that are kept."""


@dataclass(frozen=True)
class Copies:
    """`copy` (C,) indices in order, `original` (C,) the kept row that each is nearest to, `similarity` (C,) cosine."""

    copy: np.ndarray
    original: np.ndarray
    similarity: np.ndarray


def semantic_duplicates(
    vectors_ND: Vectors, labels_N: np.ndarray, threshold: float, better_N: np.ndarray | None = None
) -> Copies:
    """Rows whose cosine similarity with a better row of their cluster, which is itself kept, is at least `threshold`.

    Better is the row of higher `better`, then the earlier. SemDeDup keeps the row farthest from the cluster's centre
    and also drops what is alike to a row that it drops; here every copy has an original that stays. As there, copies
    that k-means puts into different clusters are not found.
    """
    order = np.arange(len(labels_N)) if better_N is None else np.argsort(-better_N, kind="stable")
    order = order[np.argsort(labels_N[order], kind="stable")]
    found = [
        copy
        for members in np.split(order, np.cumsum(np.bincount(labels_N))[:-1])
        for copy in _within(vectors_ND, members, threshold)
    ]
    found.sort()
    copy, original, similarity = zip(*found, strict=True) if found else ((), (), ())
    return Copies(np.array(copy, np.int64), np.array(original, np.int64), np.array(similarity, np.float32))


def _within(vectors_ND: Vectors, members: np.ndarray, threshold: float) -> list[tuple[int, int, float]]:
    """Copies among the members of one cluster, the best first: (copy, original, similarity)."""
    found: list[tuple[int, int, float]] = []
    kept = np.empty(0, np.int64)
    kept_KD = np.empty((0, vectors_ND.shape[1]), np.float32)
    for start in range(0, len(members), WINDOW):
        window = members[start : start + WINDOW]
        window_WD = np.asarray(vectors_ND[window], np.float32)
        both_D = np.concatenate([kept_KD, window_WD])
        similarity = window_WD @ both_D.T
        alive = np.r_[np.ones(len(kept), bool), np.zeros(len(window), bool)]  # a later row is no original
        for place in range(len(window)):
            near = np.where(alive, similarity[place], -1)
            best = int(near.argmax()) if len(near) else 0
            if near[best] >= threshold:
                original = kept[best] if best < len(kept) else window[best - len(kept)]
                found.append((int(window[place]), int(original), min(1.0, float(near[best]))))
            else:
                alive[len(kept) + place] = True
        stays = alive[len(kept) :]
        kept, kept_KD = np.r_[kept, window[stays]], np.concatenate([kept_KD, window_WD[stays]])
    return found
