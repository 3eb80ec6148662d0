"""Pictures of vectors keep neighbours better than chance; clusters are named by their own words."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.curation.cluster_words import characteristic_words
from finetune.curation.projection import FEWEST, project


def clouds(rows: int, dimensions: int = 40) -> np.ndarray:
    """Two sheets, each with a plane of its own among many dimensions."""
    rng = np.random.default_rng(0)
    across, along = rng.normal(size=(2, dimensions)), rng.normal(size=(2, dimensions))
    sheets = rng.normal(size=(rows, 2)) @ across + 6 * (np.arange(rows) % 2)[:, None] * along[0]
    return (sheets + rng.normal(size=(rows, dimensions)) * 0.1).astype(np.float32)


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_neighbours_stay_neighbours(method) -> None:
    vectors = clouds(150)
    seen = project(vectors, method, seed=0)
    assert seen.points.shape == (150, 2) and np.isfinite(seen.points).all()
    assert seen.trust > 0.95 and seen.trust > seen.chance + 0.02
    assert np.array_equal(seen.points, project(vectors, method, seed=0).points)


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_the_fewest_vectors_have_a_picture(method) -> None:
    seen = project(clouds(FEWEST), method, seed=0)
    assert np.isfinite(seen.points).all() and 0 <= seen.trust <= 1


def test_clusters_have_the_words_that_the_others_lack() -> None:
    texts = ["the rose grows", "the rose fades", "the ship sails", "the ship sinks", "the ship sinks"]
    words = characteristic_words(texts, np.array([0, 0, 1, 1, 1]), most=2)
    assert words[0][0] == "rose" and words[1][0] == "ship"
    assert "the" not in words[0] + words[1]
    assert characteristic_words(["...", "!"], np.array([0, 1])) == [[], []]
