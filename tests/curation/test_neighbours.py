"""Neighbours and outliers on vectors whose neighbours are known."""

from __future__ import annotations

import numpy as np
import pytest
from points import at_angles, unit

from finetune.curation import blocks
from finetune.curation.blocks import Chosen, sample
from finetune.curation.neighbours import nearest, nearest_kept, neighbour_distance
from finetune.curation.outliers import farthest, isolation_score


def cosine_distance(degrees: float) -> float:
    return 1 - np.cos(np.radians(degrees))


class TestNeighbourDistance:
    def test_the_kth_other_vector_by_hand(self) -> None:
        found = neighbour_distance(at_angles(0, 10, 25, 90), 2, seed=0)
        assert found == pytest.approx([cosine_distance(a) for a in (25, 15, 25, 80)], abs=1e-6)

    def test_copies_are_neighbours_at_no_distance(self) -> None:
        found = neighbour_distance(at_angles(0, 0, 0, 0, 90), 2, seed=0)
        assert found == pytest.approx([0, 0, 0, 0, 1], abs=1e-6)

    def test_all_pairs_and_blocks_agree(self, monkeypatch: pytest.MonkeyPatch) -> None:
        vectors = unit(np.random.default_rng(0).normal(size=(50, 8)))
        distance = 1 - vectors @ vectors.T
        expected = np.sort(distance, axis=1)[:, 3]
        monkeypatch.setattr(blocks, "BLOCK", 7)
        assert neighbour_distance(vectors, 3, seed=0) == pytest.approx(expected, abs=1e-5)

    def test_a_vector_of_the_sample_does_not_count_itself(self) -> None:
        vectors = unit(np.random.default_rng(1).normal(size=(40, 8)))
        chosen = sample(40, 10, 5)
        distance = 1 - vectors @ vectors[chosen].T
        distance[chosen, np.arange(10)] = np.inf
        expected = np.sort(distance, axis=1)[:, 1]
        assert neighbour_distance(vectors, 2, seed=5, reference=10) == pytest.approx(expected, abs=1e-5)

    def test_more_neighbours_than_there_are_others(self) -> None:
        assert neighbour_distance(at_angles(0, 90), 10, seed=0) == pytest.approx([1, 1])
        assert neighbour_distance(at_angles(0), 10, seed=0).tolist() == [0]


class TestNearest:
    def test_which_and_how_near(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(blocks, "BLOCK", 2)
        similarity, which = nearest(at_angles(0, 50, 88), at_angles(200, 60, 90))
        assert which.tolist() == [1, 1, 2]
        assert similarity == pytest.approx(np.cos(np.radians([60, 10, 2])), abs=1e-6)

    def test_half_precision_gives_no_cosine_above_one(self) -> None:
        vectors = unit(np.random.default_rng(2).normal(size=(200, 30))).astype(np.float16)
        similarity, which = nearest(vectors, vectors)
        assert which.tolist() == list(range(200))
        assert similarity.max() <= 1 and similarity.min() > 0.998

    def test_the_nearest_other_kept_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(blocks, "BLOCK", 2)
        kept = np.array([[True, False, True, False], [False, True, False, False], [False] * 4])
        found = nearest_kept(at_angles(0, 10, 25, 90), np.array([0, 1]), kept)
        expected = [np.cos(np.radians([25, 10])), [np.cos(np.radians(10)), -1], [-1, -1]]
        assert found == pytest.approx(np.array(expected), abs=1e-6)


class TestOutliers:
    def test_the_farthest_share(self) -> None:
        assert farthest(np.array([0.1, 0.9, 0.3, 0.9, 0.2]), 0.4).tolist() == [1, 3]
        assert farthest(np.array([0.5, 0.5, 0.5]), 0.4).tolist() == [0]
        assert farthest(np.array([0.5, 0.4]), 0.2).tolist() == []

    def test_both_find_what_stands_apart(self) -> None:
        generator = np.random.default_rng(3)
        crowd = generator.normal(size=(100, 3)) * 0.05 + [1, 0, 0]
        vectors = unit(np.r_[crowd, [[-1, 0.2, 0.1]]])
        assert neighbour_distance(vectors, 5, seed=0).argmax() == 100
        score = isolation_score(vectors, seed=0)
        assert score.argmax() == 100
        assert score.tolist() == isolation_score(vectors, seed=0).tolist()


def test_chosen_vectors_stand_for_a_copy_of_them() -> None:
    vectors = np.arange(12, dtype=np.float16).reshape(6, 2)
    some = Chosen(Chosen(vectors, np.array([1, 3, 5])), np.array([0, 2]))
    assert (len(some), some.shape) == (2, (2, 2))
    assert some[0:1].tolist() == [[2, 3]] and some[np.array([1, 0])].tolist() == [[10, 11], [2, 3]]


def test_samples_are_seeded_and_in_order() -> None:
    assert sample(5, 9, 0).tolist() == [0, 1, 2, 3, 4]
    one = sample(1000, 10, 1)
    assert one.tolist() == sorted(set(one.tolist())) == sample(1000, 10, 1).tolist() != sample(1000, 10, 2).tolist()
