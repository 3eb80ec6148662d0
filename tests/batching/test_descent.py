"""The problems and their constants, the three descents, and the theory they are held against."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge

from finetune.batching import rates
from finetune.batching.descent import (
    constant,
    decaying,
    gaps_at,
    gradient_descent,
    stochastic_gradient_descent,
    with_replacement,
    without_replacement,
)
from finetune.batching.problems import Problem, Ridge, breast_cancer, diabetes

LOGISTIC, RIDGE = PROBLEMS = breast_cancer(), diabetes()
both = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)


def somewhere(problem: Problem, *shape: int) -> np.ndarray:
    return 0.3 * np.random.default_rng(7).standard_normal((*shape, problem.x.shape[1]))


def points(problem: Problem, step: float, updates: int) -> np.ndarray:
    return np.array(list(islice(gradient_descent(problem, problem.start, constant(step)), updates + 1)))


# ---- problems


@both
def test_gradient_and_hessian_are_the_derivatives_of_the_loss(problem):
    w, h = somewhere(problem), 1e-5
    steps = h * np.eye(len(w))
    assert problem.gradient(w) == pytest.approx((problem.loss(w + steps) - problem.loss(w - steps)) / (2 * h), abs=1e-8)
    slopes = (problem.gradient(w + steps) - problem.gradient(w - steps)) / (2 * h)
    assert problem.hessian(w) == pytest.approx(slopes, abs=1e-8)


@both
def test_gradients_of_examples_and_of_batches_average_to_the_gradient(problem):
    w = somewhere(problem, 3)
    assert problem.gradients(w[0]).mean(0) == pytest.approx(problem.gradient(w[0]), abs=1e-12)
    rows = np.array([[5, 9], [0, 0], [100, 3]])
    expected = [problem.gradients(point)[own].mean(0) for point, own in zip(w, rows, strict=True)]
    assert problem.batch_gradient(w, rows) == pytest.approx(np.array(expected), abs=1e-12)


def test_optima_are_those_of_scikit_learn():
    n = LOGISTIC.n
    fitted = LogisticRegression(C=1 / (n * LOGISTIC.penalty), fit_intercept=False, tol=1e-10, solver="newton-cholesky")
    assert LOGISTIC.optimum == pytest.approx(fitted.fit(LOGISTIC.x, LOGISTIC.y).coef_[0], abs=1e-6)
    solved = SklearnRidge(alpha=RIDGE.n * RIDGE.penalty, fit_intercept=False).fit(RIDGE.x, RIDGE.y)
    assert RIDGE.optimum == pytest.approx(solved.coef_, abs=1e-8)


@both
def test_curvature_lies_between_mu_and_smoothness_everywhere(problem):
    mu, smoothness = problem.extremes
    for w in [problem.start, problem.optimum, *somewhere(problem, 20)]:
        eigenvalues = np.linalg.eigvalsh(problem.hessian(w))
        assert mu - 1e-12 <= eigenvalues[0] and eigenvalues[-1] <= smoothness + 1e-12


@both
def test_smoothness_is_attained_where_it_can_be(problem):
    # By ridge everywhere, by logistic regression at the start, where every chance is 1/2.
    assert np.linalg.eigvalsh(problem.hessian(problem.start))[-1] == pytest.approx(problem.extremes[1])


# ---- descents


def test_an_epoch_without_replacement_takes_each_example_once_and_is_shuffled_anew():
    batches = without_replacement(np.random.default_rng(0), 10, 3, 2)
    first, second = (np.concatenate(list(islice(batches, 3)), axis=1) for _ in range(2))
    assert first.shape == (2, 9)  # the tenth fills no batch
    assert all(len(set(row)) == 9 for row in [*first, *second])
    assert (first != second).any() and (first[0] != first[1]).any()


def test_draws_with_replacement_repeat_and_reach_all():
    rows = next(with_replacement(np.random.default_rng(0), 5, 100, 3))
    assert rows.shape == (3, 100)
    assert all(set(row) == set(range(5)) for row in rows)


def test_a_decaying_step_begins_with_itself_and_ends_as_two_over_mu_k():
    schedule = decaying(0.1, mu=0.5)
    assert schedule(0) == 0.1
    assert schedule(10**9) == pytest.approx(2 / (0.5 * 10**9), rel=1e-6)


def test_runs_beside_each_other_are_the_same_as_alone():
    steps, start = np.array([[0.01], [0.02]]), np.zeros((2, RIDGE.x.shape[1]))
    rows = list(islice(with_replacement(np.random.default_rng(1), RIDGE.n, 4, 2), 50))
    together = list(stochastic_gradient_descent(RIDGE, start, constant(steps), iter(rows)))[-1]
    for run in range(2):
        own = (each[run : run + 1] for each in rows)
        alone = list(stochastic_gradient_descent(RIDGE, start[:1], constant(float(steps[run, 0])), own))[-1]
        assert together[run] == pytest.approx(alone[0], abs=1e-14)


def test_a_batch_of_all_examples_is_gradient_descent():
    whole = without_replacement(np.random.default_rng(0), RIDGE.n, RIDGE.n, 1)
    stochastic = stochastic_gradient_descent(RIDGE, RIDGE.start[None], constant(0.1), whole)
    full = gradient_descent(RIDGE, RIDGE.start[None], constant(0.1))
    assert gaps_at(RIDGE, stochastic, [0, 5, 9]) == pytest.approx(gaps_at(RIDGE, full, [0, 5, 9]), rel=1e-10)


# ---- rates


@both
def test_no_step_of_gradient_descent_leaves_more_than_the_bound(problem):
    mu, smoothness = problem.extremes
    way = points(problem, 1 / smoothness, 4000)
    of_gap = rates.contractions(problem.gap(way), 1e-10)
    of_distance = rates.contractions(np.linalg.norm(way - problem.optimum, axis=1), 1e-6)
    assert len(of_gap) > 1000 and len(of_distance) > 1000
    assert (of_gap <= 1 - mu / smoothness).all()
    assert (of_distance <= 1 - mu / smoothness + 1e-10).all()  # ridge attains it: the rest is rounding


def test_on_ridge_the_bound_is_attained():
    mu, smoothness = RIDGE.extremes
    way = points(RIDGE, 1 / smoothness, 2500)
    rate = 1 - mu / smoothness
    assert rates.contractions(np.linalg.norm(way - RIDGE.optimum, axis=1), 1e-6)[-1] == pytest.approx(rate, abs=1e-9)
    assert rates.contractions(RIDGE.gap(way), 1e-10)[-1] == pytest.approx(rate**2, abs=1e-6)


def test_on_ridge_steps_diverge_above_two_over_smoothness_and_not_below():
    smoothness = RIDGE.extremes[1]
    below, above = (RIDGE.gap(points(RIDGE, factor / smoothness, 300)) for factor in (1.98, 2.02))
    assert below[-1] < 0.01 * below[0]
    assert above[-1] > 10 * above[0]


def test_contractions_stop_where_rounding_begins():
    assert rates.contractions(np.array([8.0, 4.0, 1.0, 1e-9, 3.0]), 1e-6) == pytest.approx([0.5, 0.25])
    assert rates.contractions(np.array([8.0, 4.0, 2.0]), 1e-6) == pytest.approx([0.5, 0.5])


def test_a_known_exponent_is_found_within_its_interval():
    k = np.geomspace(100, 10_000, 40)
    noise = np.exp(0.2 * np.random.default_rng(0).standard_normal((40, 30)))
    exponent, half_width = rates.fitted_exponent(k, 7 * k[:, None] ** -1.5 * noise)
    assert abs(exponent + 1.5) < half_width < 0.05


def test_a_floor_in_one_dimension_is_the_closed_form():
    # m = (1 - αh)² m + α²/b (c + m var x²), h = mean x² + λ
    problem = Ridge("ridge", np.array([[1.0], [2.0], [0.5], [1.5]]), np.array([1.0, 2.0, 3.0, 6.0]), penalty=0.1)
    square, step, batch = problem.x[:, 0] ** 2, 0.1, 2
    h, c = square.mean() + 0.1, problem.gradients(problem.optimum).var()
    moment = step**2 / batch * c / (1 - (1 - step * h) ** 2 - step**2 / batch * square.var())
    assert rates.exact_floor(problem, step, batch) == pytest.approx(h * moment / 2)
    assert rates.first_order_floor(problem, step, batch) == pytest.approx(step * c / (4 * batch))


def test_a_small_step_has_the_floor_of_first_order():
    for step, tolerance in ((0.01, 0.1), (0.001, 0.01), (0.0001, 0.001)):
        exact = rates.exact_floor(RIDGE, step, 1)
        assert exact == pytest.approx(rates.first_order_floor(RIDGE, step, 1), rel=tolerance)


def test_targets_are_reached_where_a_column_first_comes_so_far():
    gaps = np.array([[1.0, 1.0, np.nan], [0.5, 0.05, np.nan], [0.05, 0.5, np.nan]])
    assert rates.first_reached(gaps, [0.1, 0.5, 0.01]) == [[(2, 0), (1, 1)], [(1, 0), (1, 1)], []]
