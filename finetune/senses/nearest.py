"""Nearest sense: by the centroids of senses, or by the nearest labelled occurrences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve
from scipy.special import softmax

from finetune.senses.rows import Label

SHRINKAGE = 0.9
"""Share of the sphere in the metric; chosen on training rows by books and words left out, and on half of the minimal
pairs. With less, the style of the training books weighs more than what the senses differ in."""


@dataclass(frozen=True)
class Centroids:
    """Senses by their centroids in the Mahalanobis metric of the scatter within senses: linear discriminants.

    `weights` (K, D) and `biases` (K): the score of a sense is minus half its squared distance, but for what all senses
    share. Senses are taken for equally frequent; each has the same say in the metric.
    """

    labels: list[Label]
    weights: np.ndarray
    biases: np.ndarray

    @classmethod
    def fit(cls, vectors: np.ndarray, labels: Sequence[Label], shrinkage: float = SHRINKAGE) -> Centroids:
        """The scatter is shrunk by `shrinkage` towards a sphere of the same size: 1 gives Euclidean centroids."""
        senses = sorted(set(labels), key=lambda label: (str(type(label)), label))
        places = np.array([senses.index(label) for label in labels])
        means = np.stack([vectors[places == at].mean(0) for at in range(len(senses))])
        share = 1 / np.sqrt(np.bincount(places) * len(senses))  # a sense's scatter is divided by its rows
        within = (vectors - means[places]) * share[places, None]
        weights = _solve(within, means, shrinkage)
        biases = -0.5 * (means * weights).sum(1)
        return cls(senses, weights.astype(np.float32), biases.astype(np.float32))

    def probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """Of each sense under Gaussians of one shape, (n, K)."""
        return softmax(vectors @ self.weights.T + self.biases, axis=1)

    def predict(self, vectors: np.ndarray) -> list[Label]:
        """The nearest sense of each."""
        return [self.labels[at] for at in self.probabilities(vectors).argmax(1)]


def _solve(within: np.ndarray, means: np.ndarray, shrinkage: float) -> np.ndarray:
    """S⁻¹ m of each mean m, S = (1 − λ) ZᵀZ + λ s I with s the mean variance; by Woodbury where rows are fewer than
    dimensions."""
    size = float((within**2).sum()) / within.shape[1] or 1.0
    kept, sphere = 1 - shrinkage, shrinkage * size
    if len(within) >= within.shape[1] or not sphere:
        scatter = kept * (within.T @ within) + max(sphere, 1e-6 * size) * np.eye(within.shape[1])
        return solve(scatter, means.T, assume_a="pos").T
    inner = sphere * np.eye(len(within)) + kept * (within @ within.T)
    return (means - kept * solve(inner, within @ means.T, assume_a="pos").T @ within) / sphere


def nearest_rows(vectors: np.ndarray, labels: Sequence[Label], queries: np.ndarray, k: int = 1) -> list[Label]:
    """k-NN: the commonest label of the k rows with the largest cosine; of equals the nearer one's. Vectors of unit
    length."""
    order = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]
    return [Counter(labels[at] for at in row).most_common(1)[0][0] for row in order]


def nearest_centroid(vectors: np.ndarray, labels: Sequence[Label], queries: np.ndarray) -> list[Label]:
    """The sense whose mean vector has the largest cosine."""
    senses = list(dict.fromkeys(labels))
    names = np.array([senses.index(label) for label in labels])
    means = np.stack([vectors[names == at].mean(0) for at in range(len(senses))])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return [senses[at] for at in (queries @ means.T).argmax(1)]
