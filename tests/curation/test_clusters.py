"""Clusters, balanced subsets and semantic duplicates on points that stand in known groups."""

from __future__ import annotations

import numpy as np
import pytest
from points import at_angles, groups

from finetune.curation import duplicates
from finetune.curation.clusters import assign, balanced, entropy
from finetune.curation.duplicates import semantic_duplicates


class TestClusters:
    def test_groups_are_found_and_seeded(self) -> None:
        labels = assign(groups(), 3, seed=0)
        assert sorted(np.bincount(labels)) == [10, 30, 60]
        assert all(len(set(part)) == 1 for part in np.split(labels, [60, 90]))
        assert assign(groups().astype(np.float16), 3, seed=0).tolist() == labels.tolist()

    def test_without_a_number_the_square_root(self) -> None:
        assert len(np.unique(assign(groups(), None, seed=0))) == 10

    def test_no_more_clusters_than_different_vectors(self) -> None:
        assert set(assign(at_angles(0, 0, 0, 90, 90), 4, seed=0).tolist()) == {0, 1}
        assert assign(at_angles(0), None, seed=0).tolist() == [0]


class TestBalanced:
    @pytest.mark.parametrize(
        ("keep", "expected"),
        [
            (3, [1, 1, 1]),
            (30, [10, 10, 10]),
            (41, [16, 15, 10]),
            (95, [55, 30, 10]),
            (100, [60, 30, 10]),
            (500, [60, 30, 10]),
        ],
    )
    def test_as_many_of_each_as_can_be(self, keep: int, expected: list[int]) -> None:
        labels = np.repeat([0, 1, 2], [60, 30, 10])
        kept = balanced(labels, keep, seed=0)
        assert np.bincount(labels[kept], minlength=3).tolist() == expected
        assert kept.tolist() == sorted(set(kept.tolist()))

    def test_seeded_and_drawn_from_the_whole_cluster(self) -> None:
        labels = np.zeros(1000, int)
        kept = balanced(labels, 100, seed=0)
        assert kept.tolist() == balanced(labels, 100, seed=0).tolist() != balanced(labels, 100, seed=1).tolist()
        assert 400 < kept.mean() < 600

    def test_a_number_without_members(self) -> None:
        assert balanced(np.array([0, 2, 2]), 2, seed=0).tolist()[0] == 0

    def test_entropy(self) -> None:
        assert entropy(np.array([0, 1, 2, 3])) == 2
        assert entropy(np.array([5, 5])) == 0
        assert entropy(np.array([0, 0, 0, 7])) == pytest.approx(0.8113, abs=1e-4)


class TestSemanticDuplicates:
    COSINE_OF_6 = float(np.cos(np.radians(6)))

    def found(self, vectors: np.ndarray, labels: list[int], better: list[float] | None = None) -> list[tuple[int, int]]:
        copies = semantic_duplicates(
            vectors, np.array(labels), self.COSINE_OF_6, None if better is None else np.array(better)
        )
        return list(zip(copies.copy.tolist(), copies.original.tolist(), strict=True))

    @pytest.mark.parametrize("window", [1, 2, 512])
    def test_every_copy_has_an_original_that_stays(self, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(duplicates, "WINDOW", window)
        # Each is alike to the one before; dropping the second, the third has none that stays.
        assert self.found(at_angles(0, 5, 10, 15, 60), [0] * 5) == [(1, 0), (3, 2)]

    def test_the_nearest_original_is_named_with_its_similarity(self) -> None:
        copies = semantic_duplicates(at_angles(0, 9, 5), np.zeros(3, int), self.COSINE_OF_6)
        assert (copies.copy.tolist(), copies.original.tolist()) == ([2], [1])
        assert copies.similarity == pytest.approx([np.cos(np.radians(4))], abs=1e-6)

    def test_the_better_one_stays(self) -> None:
        assert self.found(at_angles(0, 5, 60), [0] * 3, better=[0.2, 0.9, 0.5]) == [(0, 1)]

    def test_clusters_are_not_compared(self) -> None:
        assert self.found(at_angles(0, 1, 2, 3), [1, 0, 1, 0]) == [(2, 0), (3, 1)]

    def test_nothing_alike(self) -> None:
        copies = semantic_duplicates(at_angles(0, 90), np.zeros(2, int), 0.9)
        assert (copies.copy.shape, copies.original.dtype, copies.similarity.tolist()) == ((0,), np.int64, [])
