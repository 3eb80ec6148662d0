"""A classifier of quality: what it learns, what is held out, and too few labels."""

from __future__ import annotations

import numpy as np
import pytest
from points import unit

from finetune.curation.quality import learn_quality
from finetune.errors import DataError


def labelled(good: int, bad: int, apart: float) -> tuple[np.ndarray, np.ndarray]:
    label = np.r_[np.ones(good, bool), np.zeros(bad, bool)]
    noise = np.random.default_rng(0).normal(size=(good + bad, 16)) * 0.3
    noise[:, 0] += np.where(label, apart, -apart)
    return unit(noise), label


def test_what_can_be_told_apart_is() -> None:
    vectors, good = labelled(40, 20, apart=1)
    learned = learn_quality(vectors, good, 0.5, seed=0)
    for one in (learned.logistic, learned.svm):
        assert (one.auc, one.precision, one.recall) == (1, 1, 1)
        assert (one.labels, one.bad, one.dropped) == (60, 20, 20)
    probability = learned.probability(vectors)
    assert probability.dtype == np.float32 and ((probability > 0.5) == good).all()


def test_held_out_figures_do_not_reward_learning_by_heart() -> None:
    vectors, good = labelled(60, 60, apart=0)
    learned = learn_quality(vectors, good, 0.5, seed=0)
    assert 0.3 < learned.logistic.auc < 0.7
    assert learned.logistic.precision == pytest.approx(0.5, abs=0.15)


def test_a_higher_threshold_drops_more() -> None:
    vectors, good = labelled(40, 40, apart=0.2)
    low, high = (learn_quality(vectors, good, threshold, seed=0).logistic for threshold in (0.2, 0.8))
    assert low.dropped < high.dropped and low.recall < high.recall
    assert low.hits == round(low.recall * 40)


@pytest.mark.parametrize(("good", "bad"), [(9, 30), (30, 9), (30, 0), (0, 0)])
def test_too_few_labels(good: int, bad: int) -> None:
    with pytest.raises(DataError) as caught:
        learn_quality(*labelled(good, bad, apart=1), 0.5, seed=0)
    assert caught.value.message == f"labels of {good} good and {bad} bad rows are too few to learn quality from"
    assert caught.value.hint.startswith("label at least 10 rows of each kind")
