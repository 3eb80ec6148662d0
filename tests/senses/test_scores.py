"""Figures computed by hand, by scikit-learn, or known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from marked_rows import BASS, marked
from sklearn.metrics import balanced_accuracy_score

from finetune.embeddings import Occurrence
from finetune.senses import SenseRow
from finetune.senses.baselines import BagOfWords, bag_of_words, majority
from finetune.senses.induced import induce
from finetune.senses.scores import pair_accuracy, scores, separation
from finetune.senses.validation import folds
from finetune.senses.views import unit

GOLD = ["a"] * 80 + ["b"] * 20
TOLD = ["a"] * 72 + ["b"] * 8 + ["b"] * 15 + ["a"] * 5


def test_scores_by_hand() -> None:
    found = scores(GOLD, TOLD)
    assert found.accuracy.value == pytest.approx(0.87) and found.recall == {"a": 0.9, "b": 0.75}
    assert found.macro_recall.value == pytest.approx(balanced_accuracy_score(GOLD, TOLD)) == pytest.approx(0.825)
    assert found.confusion == {"a": {"a": 72, "b": 8}, "b": {"b": 15, "a": 5}}
    assert found.to_json()["recall"] == {"a": 0.9, "b": 0.75}


def test_intervals_are_those_of_resampled_rows() -> None:
    found = scores(GOLD, TOLD)
    deviation = np.sqrt(0.9 * 0.1 / 80 + 0.75 * 0.25 / 20) / 2
    assert found.macro_recall.low == pytest.approx(0.825 - 1.96 * deviation, abs=0.015)
    assert found.macro_recall.high == pytest.approx(0.825 + 1.96 * deviation, abs=0.015)
    assert found.accuracy.low == pytest.approx(0.80, abs=0.015)
    assert found == scores(GOLD, TOLD), "seeded"
    sure = scores(["a", "b"], ["a", "b"])
    assert (sure.accuracy.low, sure.accuracy.high) == (1, 1)


def test_a_sense_that_was_never_fitted_counts_as_wrong() -> None:
    assert scores(["a", "new"], ["a", "a"]).recall == {"a": 1, "new": 0}


def test_pairs_by_the_threshold_of_others() -> None:
    fitted = np.array([0.1, 0.2, 0.6, 0.9])
    threshold = pair_accuracy([True, False, True], np.array([0.61, 0.59, 0.3]), [False, False, True, True], fitted)
    assert threshold == pytest.approx(2 / 3)


def test_separation_of_points_that_know_the_sense_and_of_others() -> None:
    rng = np.random.default_rng(0)
    labels = ["a", "b"] * 60
    apart = np.array([[1, 0.0] if label == "a" else [0, 1.0] for label in labels]) + rng.normal(0, 0.1, (120, 2))
    assert separation(apart, labels) > 0.99
    assert separation(rng.normal(size=(120, 2)), labels) == pytest.approx(0.5, abs=0.05)
    assert np.isnan(separation(apart, ["a"] * 120))


def test_senses_are_induced_and_named() -> None:
    rng = np.random.default_rng(0)
    centres = unit(rng.normal(size=(3, 20)))
    truth = rng.integers(3, size=150)
    vectors = unit(centres[truth] + rng.normal(0, 0.05, (150, 20)))
    labels = [f"sense {at}" for at in truth]
    found = induce(vectors[:100], labels[:100])
    assert len(found.labels) == 3 and sorted(found.labels) == ["sense 0", "sense 1", "sense 2"]
    assert found.agreement(vectors[100:], labels[100:]) == 1
    assert found.predict(vectors[100:]) == labels[100:]
    assert abs(found.agreement(vectors, list(rng.permutation(labels)))) < 0.1


def test_baselines() -> None:
    train = marked("bass", {"fish": BASS["fish"], "music": BASS["music"][:3]})
    test = marked("bass", {"music": ["a bass and the drums"], "fish": ["a bass in the lake water"]})
    assert majority(train, test) == ["fish", "fish"]
    assert bag_of_words(train, test) == ["music", "fish"]
    assert BagOfWords.fit(train[:2]).predict(test) == ["fish", "fish"]


def test_a_bag_of_words_with_more_senses_than_two() -> None:
    train = marked("bow", {"ship": ["bow deck"] * 2, "music": ["bow violin"] * 2, "knot": ["bow ribbon"] * 2})
    test = marked("bow", {"knot": ["bow ribbon"], "ship": ["bow deck"], "music": ["bow violin"]})
    assert bag_of_words(train, test) == ["knot", "ship", "music"]


def test_folds_hold_every_sense_and_never_part_equal_texts() -> None:
    rows = [SenseRow("w", Occurrence(f"w {at // 2}", 0, 1), at % 4 // 2) for at in range(40)]
    found = folds(rows)
    for label in (0, 1):
        assert np.bincount(found[[row.label == label for row in rows]], minlength=5).tolist() == [4] * 5
    assert all(found[at] == found[at + 1] for at in range(0, 40, 2))
