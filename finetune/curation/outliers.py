"""Outliers: the share that lies farthest from its neighbours, and Isolation Forest as a second opinion."""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import IsolationForest

from finetune.curation.blocks import SAMPLE, Vectors, blocks_of, sample


def farthest(scores: np.ndarray, share: float) -> np.ndarray:
    """Indices of the `share` of rows with the highest scores, in order; of equal scores the earlier first."""
    order = np.argsort(-scores, kind="stable")
    return np.sort(order[: int(share * len(scores))])


def isolation_score(vectors_ND: Vectors, *, seed: int) -> np.ndarray:
    """How few random cuts set each vector apart, (N,) float32 in (0, 1), high for outliers (Liu, Ting and Zhou 2008).

    A cut is along one dimension. Of an embedding no single dimension tells what a text is about, so that the score says
    far less than the distance to neighbours: docs/data.md has the figures.
    """
    chosen = sample(len(vectors_ND), SAMPLE, seed)
    forest = IsolationForest(random_state=seed).fit(np.asarray(vectors_ND[chosen], np.float32))
    return -np.concatenate([forest.score_samples(block) for _, block in blocks_of(vectors_ND)]).astype(np.float32)
