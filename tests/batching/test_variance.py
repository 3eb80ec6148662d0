"""The variance of a batch's gradient: exactly on a set small enough to list every batch, and drawn on real data."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from finetune.batching.problems import breast_cancer
from finetune.batching.variance import example_variance, measured_variance, theoretical_variance

PROBLEM = breast_cancer()
SMALL = np.random.default_rng(3).standard_normal((6, 2))


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("replacement", [True, False])
def test_theory_is_the_mean_over_every_batch_there_is(batch, replacement):
    every = product(range(6), repeat=batch) if replacement else combinations(range(6), batch)
    squares = [np.square(SMALL[list(rows)].mean(0) - SMALL.mean(0)).sum() for rows in every]
    assert theoretical_variance(SMALL, batch, replacement) == pytest.approx(np.mean(squares))


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("batch", [1, 8, 64, 512])
@pytest.mark.parametrize("at", ["start", "optimum"])
def test_measured_variance_is_theory_within_five_percent(at, batch, replacement):
    gradients = PROBLEM.gradients(getattr(PROBLEM, at))
    rng = np.random.default_rng([batch, replacement])
    measured = measured_variance(gradients, batch, replacement, max(10_000, 200_000 // batch), rng)
    assert measured == pytest.approx(theoretical_variance(gradients, batch, replacement), rel=0.05)


def test_without_replacement_nothing_is_left_to_chance_in_the_whole_set():
    gradients = PROBLEM.gradients(PROBLEM.start)
    assert theoretical_variance(gradients, PROBLEM.n, replacement=False) == 0.0
    assert measured_variance(gradients, PROBLEM.n, False, 10, np.random.default_rng(0)) < 1e-25


def test_the_finite_population_factor_takes_nine_tenths_off_512_of_569():
    gradients = PROBLEM.gradients(PROBLEM.start)
    with_all, without = (theoretical_variance(gradients, 512, replacement) for replacement in (True, False))
    assert without / with_all == pytest.approx(57 / 568)


def test_variance_of_an_example_is_the_trace_of_the_covariance():
    assert example_variance(SMALL) == pytest.approx(np.trace(np.cov(SMALL.T, bias=True)))
