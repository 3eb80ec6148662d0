"""What random selection gives: the formulas against draws."""

from __future__ import annotations

import numpy as np
import pytest
from points import at_angles, groups

from finetune.curation.chance import balance_of, hits_of, mean_of, similarity_of_dropped
from finetune.curation.clusters import balanced


def within(low: float, high: float, draws: list[float]) -> float:
    return float(np.mean([low <= draw <= high for draw in draws]))


def test_the_mean_of_a_random_sample() -> None:
    generator = np.random.default_rng(0)
    values = generator.exponential(size=300)
    found = mean_of("mean", values, np.array([0, 1, 2] * 30))
    assert found.selected == pytest.approx(values[:3].mean())
    draws = [generator.choice(values, 90, replace=False).mean() for _ in range(2000)]
    assert found.random == pytest.approx(np.mean(draws), abs=0.01)
    assert within(found.low, found.high, draws) == pytest.approx(0.95, abs=0.02)
    assert mean_of("all", values, np.arange(300)).low == pytest.approx(values.mean())


def test_hits_of_a_random_sample() -> None:
    found = hits_of("hits", 9, having=20, size=30, count=100)
    assert (found.selected, found.random) == (9, 6)
    generator = np.random.default_rng(0)
    draws = [int((generator.choice(100, 30, replace=False) < 20).sum()) for _ in range(2000)]
    assert np.mean(draws) == pytest.approx(6, abs=0.15)
    assert within(found.low, found.high, draws) >= 0.94
    assert (found.low, found.high) == (3, 10)


def test_copies_are_nearer_to_what_stays_than_random_rows() -> None:
    vectors = at_angles(0, 1, 40, 80, 120, 160)
    found = similarity_of_dropped(vectors, np.array([1]), seed=0)
    assert found.selected == pytest.approx(np.cos(np.radians(1)), abs=1e-6)
    assert found.random < 0.9 and found.low < found.random < found.high


def test_a_balanced_subset_beside_random_ones() -> None:
    vectors = groups()
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    covered, entropy, distance = balance_of(vectors, labels, balanced(labels, 9, seed=0), seed=0)
    assert covered.measure == "clusters covered, of 3" and covered.selected == 3
    assert entropy.selected == pytest.approx(np.log2(3)) and entropy.random < 1.5 > entropy.low
    assert covered.low <= covered.random <= covered.high
    assert 0 < distance.selected < 0.1

    everything = balance_of(vectors, labels, np.arange(100), seed=0)
    assert everything[2].selected == everything[2].random == 0
