"""Each algorithm on data that its assumptions do not hold for, and the same mended: one function a case.

A case gives two scores, of the algorithm and of the remedy, both between 0 and 1, and 1 is best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import make_circles
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from finetune.curation.classic_digits import digits
from finetune.curation.outside import auc, distance, forest

WIDE = 384
"""Dimensions of MiniLM's vectors."""


@dataclass(frozen=True)
class Case:
    """Data that an algorithm fails on, what mends it, and how both are scored."""

    algorithm: str
    data: str
    score: str
    remedy: str
    run: Callable[[], tuple[float, float]]


def rings() -> tuple[float, float]:
    """One class around the other: no line is between them."""
    points, labels = make_circles(1000, noise=0.05, factor=0.5, random_state=0)
    return tuple(held_out(model, points, labels) for model in (LogisticRegression(), SVC()))


def units() -> tuple[float, float]:
    """Every pixel in a unit of its own: the kernel sees only the largest numbers."""
    pixels, labels = digits()
    pixels = pixels * 10 ** np.random.default_rng(0).uniform(-2, 2, pixels.shape[1])
    return tuple(held_out(model, pixels, labels) for model in (SVC(), make_pipeline(StandardScaler(), SVC())))


def noise_columns() -> tuple[float, float]:
    """Columns that say nothing: they count as much in a distance as those that do."""
    pixels, labels = digits()
    drawn = np.random.default_rng(0).normal(size=(len(pixels), WIDE)) * 0.4
    pixels = np.hstack([pixels / 16, drawn])
    return tuple(held_out(model, pixels, labels) for model in (KNeighborsClassifier(), LogisticRegression()))


def long_clusters() -> tuple[np.ndarray, np.ndarray]:
    """Two clusters side by side, each twenty times as long as wide: (1000, 2), and the cluster of each point."""
    points = np.random.default_rng(0).normal(size=(1000, 2)) * [10, 0.5]
    labels = np.arange(1000) % 2
    points[:, 1] += 4 * labels
    return points, labels


def long_cells() -> tuple[float, float]:
    """The nearest of two centres cuts the long way in half."""
    points, labels = long_clusters()
    model = KMeans(2, n_init=10, random_state=0)
    even = StandardScaler().fit_transform(points)
    return tuple(float(adjusted_rand_score(labels, model.fit_predict(each))) for each in (points, even))


def quiet_direction() -> tuple[float, float]:
    """What tells the classes apart varies least, so the first component leaves it out."""
    points, labels = long_clusters()
    return tuple(held_out(make_pipeline(PCA(kept), LogisticRegression()), points, labels) for kept in (1, 2))


def far_clusters() -> tuple[float, float]:
    """Three clusters, the third nine times as far from the second as that is from the first: their ratio, kept or
    not, as the smaller part of the larger."""
    cluster, points = np.repeat([0, 1, 2], 200), np.random.default_rng(0).normal(size=(600, 10))
    points[:, 0] += np.array([0, 10, 100])[cluster]

    def ratio(at: np.ndarray) -> float:
        first, second, third = (np.median(at[cluster == one], axis=0) for one in range(3))
        return float(np.linalg.norm(third - second) / np.linalg.norm(second - first))

    true = ratio(points)
    return tuple(
        min(ratio(at) / true, true / ratio(at))
        for at in (TSNE(random_state=0).fit_transform(points), PCA(2).fit_transform(points))
    )


def turned() -> tuple[float, float]:
    """Rows in eight directions of 384, none along an axis; the others in eight different ones."""
    fitted, inside, others = slanted(WIDE, turn=True)
    return auc(forest, fitted, inside, others), auc(distance, fitted, inside, others)


def slanted(dimensions: int, *, turn: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows to fit, rows like them, and others. All are normal in eight directions and nearly nothing (0.05) in the
    rest; the eight lie along axes, or all is turned as one."""
    rng = np.random.default_rng(0)
    rows = 0.05 * rng.normal(size=(2500, dimensions))
    rows[:2000, :8] += rng.normal(size=(2000, 8))
    rows[2000:, 8:16] += rng.normal(size=(500, 8))
    if turn:
        rows = rows @ np.linalg.qr(rng.normal(size=(dimensions, dimensions)))[0]
    return rows[:1000], rows[1000:2000], rows[2000:]


def held_out(model: object, points: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy on the second half of a model fitted to the first."""
    half = len(labels) // 2
    return float(model.fit(points[:half], labels[:half]).score(points[half:], labels[half:]))


CASES = (
    Case("logistic regression", "one class in a ring around the other", "accuracy", "SVM, RBF kernel", rings),
    Case("SVM", "digits, each pixel in its own unit", "accuracy", "columns standardised", units),
    Case("k-NN", "digits, 384 columns of noise added", "accuracy", "logistic regression", noise_columns),
    Case("k-means", "two long clusters side by side", "adjusted Rand", "columns standardised", long_cells),
    Case("PCA, first component", "the same two clusters, as classes", "accuracy", "both components", quiet_direction),
    Case("t-SNE", "clusters at distances 1 : 9", "ratio kept", "PCA", far_clusters),
    Case("Isolation Forest", "384 dimensions, turned", "ROC AUC", "k-NN distance", turned),
)
