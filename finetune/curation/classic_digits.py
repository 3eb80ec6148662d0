"""The seven algorithms on scikit-learn's handwritten digits, in the splits and settings of its own examples.

Pixels are 0 to 16, images (1797, 64). scikit-learn's examples have a figure for the first four; the splits are theirs:
the rows in their order, the last ones held out, which other persons wrote.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import homogeneity_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from finetune.curation.outside import NEIGHBOURS, auc, distance, forest

SHARES = (0.90, 0.95, 0.99)
"""Shares of the variance that PCA is asked to keep."""


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels (1797, 64) and the digit of each image."""
    return load_digits(return_X_y=True)


def classified() -> dict[str, float]:
    """Held-out accuracy: the SVM as in plot_digits_classification, the others as in its exercise."""
    pixels, labels = digits()
    half, most = len(labels) // 2, int(0.9 * len(labels))
    models = {
        "svm": (SVC(gamma=0.001), half, 1),
        "knn": (KNeighborsClassifier(NEIGHBOURS), most, 16),
        "logistic": (LogisticRegression(max_iter=1000), most, 16),
    }
    return {
        name: float(model.fit(pixels[:to] / unit, labels[:to]).score(pixels[to:] / unit, labels[to:]))
        for name, (model, to, unit) in models.items()
    }


def clustered() -> dict[str, float]:
    """Homogeneity of ten clusters (is each of one digit?), as in plot_kmeans_digits, and of clusters drawn at
    random."""
    pixels, labels = digits()
    model = make_pipeline(StandardScaler(), KMeans(10, n_init=4, random_state=0)).fit(pixels)
    drawn = np.random.default_rng(0).permutation(model[-1].labels_)
    return {"kmeans": float(homogeneity_score(labels, model[-1].labels_)), "random": homogeneity_score(labels, drawn)}


def explained() -> np.ndarray:
    """Share of the variance that the first 1, 2, ... 64 principal components hold."""
    return PCA().fit(digits()[0]).explained_variance_ratio_.cumsum()


def components(shares: np.ndarray) -> list[int]:
    """The fewest components that hold each of SHARES."""
    return [int(np.searchsorted(shares, share)) + 1 for share in SHARES]


def maps() -> dict[str, np.ndarray]:
    """The images in two dimensions: by t-SNE, by PCA, and by a random projection."""
    pixels, _ = digits()
    drawn = np.random.default_rng(0).standard_normal((pixels.shape[1], 2))
    return {
        "tsne": TSNE(random_state=0).fit_transform(pixels),
        "pca": PCA(2).fit_transform(pixels),
        "random": pixels @ drawn,
    }


def trusted(drawn: dict[str, np.ndarray]) -> dict[str, float]:
    """Trustworthiness of each map: 1 where neighbours on it are neighbours among the pixels."""
    return {name: float(trustworthiness(digits()[0], at, n_neighbors=NEIGHBOURS)) for name, at in drawn.items()}


def outside() -> dict[int, dict[str, float]]:
    """For each digit, ROC AUC of telling the other nine from it.

    `own`: the forest is fitted to every image of the digit, and scores these against the others. `held_out`: it is
    fitted to the first half of them, and only the second half is scored; `knn`: the same by distance.
    """
    pixels, labels = digits()
    found = {}
    for digit in range(10):
        own, others = pixels[labels == digit], pixels[labels != digit]
        half = len(own) // 2
        found[digit] = {
            "own": auc(forest, own, own, others),
            "held_out": auc(forest, own[:half], own[half:], others),
            "knn": auc(distance, own[:half], own[half:], others),
        }
    return found


def as_numbers(drawn: dict[str, np.ndarray]) -> dict[str, Any]:
    """All of it."""
    shares = explained()
    return {
        "accuracy": classified(), "homogeneity": clustered(), "components": components(shares),
        "explained": shares.tolist(), "trustworthiness": trusted(drawn), "outside": outside(),
    }  # fmt: skip
