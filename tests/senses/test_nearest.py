"""Nearest sense on points whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from finetune.senses.nearest import Centroids, nearest_centroid, nearest_rows
from finetune.senses.views import unit


def blobs(rows: int = 40, dimensions: int = 6, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Two senses that differ in one dimension by less than both scatter in another."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, dimensions)) * np.array([0.3, 5.0, *[1.0] * (dimensions - 2)])
    labels = ["a" if at % 2 else "b" for at in range(rows)]
    vectors[:, 0] += [1 if label == "a" else -1 for label in labels]
    return vectors, labels


@pytest.mark.parametrize("dimensions", [6, 60])  # fewer and more than rows
def test_centroids_are_the_shrunken_linear_discriminant(dimensions: int) -> None:
    vectors, labels = blobs(dimensions=dimensions)
    tested, _ = blobs(dimensions=dimensions, seed=1)
    ours = Centroids.fit(vectors, labels, 0.3)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3, priors=[0.5, 0.5]).fit(vectors, labels)
    assert ours.labels == theirs.classes_.tolist()
    assert ours.probabilities(tested) == pytest.approx(theirs.predict_proba(tested), abs=2e-2)
    assert ours.predict(tested) == theirs.predict(tested).tolist()


def test_the_metric_sees_past_scatter_that_senses_share() -> None:
    vectors, labels = blobs(400)
    tested, truth = blobs(400, seed=1)

    def right(told: list[str]) -> float:
        return float(np.mean([one == other for one, other in zip(told, truth, strict=True)]))

    assert right(Centroids.fit(vectors, labels, 0.1).predict(tested)) > 0.98
    assert right(nearest_centroid(vectors, labels, tested)) < 0.9


def test_a_rare_sense_weighs_as_much_as_a_common_one() -> None:
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(0, 1, (300, 2)), rng.normal([6, 0], 1, (6, 2))])
    model = Centroids.fit(vectors, ["common"] * 300 + ["rare"] * 6)
    assert model.predict(np.array([[2.5, 0], [3.5, 0]])) == ["common", "rare"]


def test_wholly_shrunk_the_nearest_mean_is_told() -> None:
    vectors, labels = blobs()
    means = [vectors[np.array(labels) == label].mean(0) for label in ("a", "b")]
    tested = np.random.default_rng(2).normal(size=(50, 6))
    nearest = [min("ab", key=lambda label: np.linalg.norm(one - means["ab".index(label)])) for one in tested]
    assert Centroids.fit(vectors, labels, 1.0).predict(tested) == nearest


def test_one_row_a_sense_and_one_sense() -> None:
    model = Centroids.fit(np.eye(3)[:2], ["a", "b"])
    assert model.predict(np.eye(3)[:2]) == ["a", "b"]
    assert Centroids.fit(np.eye(3), ["a"] * 3).predict(np.eye(3)) == ["a"] * 3


def test_labels_of_both_kinds_are_told_apart() -> None:
    assert Centroids.fit(np.eye(2), ["1", 1]).predict(np.eye(2)) == ["1", 1]


def test_nearest_rows_and_centroids_by_cosine() -> None:
    vectors = unit(np.array([[1, 0.0], [1, 0.4], [0.1, 1]]))
    labels = ["a", "b", "b"]
    query = unit(np.array([[1, 0.15]]))
    assert nearest_rows(vectors, labels, query, 1) == ["a"]
    assert nearest_rows(vectors, labels, query, 3) == ["b"]
    assert nearest_centroid(vectors, labels, query) == ["a"]
    assert nearest_centroid(vectors, labels, unit(np.array([[1.0, 0.8]]))) == ["b"]
