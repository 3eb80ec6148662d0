"""Vectors in two dimensions, by t-SNE or by PCA, and how far the picture can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness

from finetune.curation.blocks import sample

Method = Literal["tsne", "pca"]

FEWEST = 12
"""Vectors that a picture needs: with fewer, five neighbours are half of all."""

COMPONENTS = 50
"""Principal components that t-SNE is given (van der Maaten and Hinton 2008): distances keep, noise goes."""

PERPLEXITY = 30
"""Neighbours that t-SNE looks at, softly counted: scikit-learn's default."""

NEIGHBOURS = 5
"""Neighbours that trustworthiness looks at: scikit-learn's default."""

PROBES = 2000
"""Vectors that trustworthiness is computed on: it compares all pairs."""


@dataclass(frozen=True)
class Projection:
    """`points` (N, 2). `trust` is 1 where the neighbours of a point are its neighbours among the vectors, too; `chance`
    is that of a random projection of the same vectors."""

    method: Method
    points: np.ndarray
    trust: float
    chance: float


def project(vectors_ND: np.ndarray, method: Method, *, seed: int) -> Projection:
    """N >= FEWEST vectors in two dimensions. Equal seeds give equal pictures on one machine: t-SNE is chaotic, and
    rounding differs between processors."""
    vectors_ND = np.asarray(vectors_ND, np.float32)
    kept = 2 if method == "pca" else min(COMPONENTS, *vectors_ND.shape)
    points = PCA(kept, random_state=seed).fit_transform(vectors_ND)
    if method == "tsne":
        points = TSNE(perplexity=min(PERPLEXITY, (len(points) - 1) / 3), random_state=seed).fit_transform(points)
    drawn = vectors_ND @ np.random.default_rng(seed).standard_normal((vectors_ND.shape[1], 2)).astype(np.float32)
    probes = sample(len(points), PROBES, seed)
    trust, chance = (
        float(trustworthiness(vectors_ND[probes], shown[probes], n_neighbors=NEIGHBOURS)) for shown in (points, drawn)
    )
    return Projection(method, points, trust, chance)
