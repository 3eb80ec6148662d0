"""Baird's counterexample diverges as computed, and does not where one of the three is taken away."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.rl import baird


def test_values_can_be_exactly_right() -> None:
    assert np.allclose(baird.features() @ np.zeros(8), 0)
    assert (baird.features() @ baird.start()).tolist() == [3.0] * 6 + [12.0]


@pytest.mark.parametrize(("sweeps", "weight"), [(1, 1.076), (10, 1.767), (100, 9.627), (1000, 335.0)])
def test_bootstrapping_off_policy_diverges(sweeps: int, weight: float) -> None:
    assert baird.sweep(baird.semi_gradient(), sweeps)[-1, 7] == pytest.approx(
        weight, abs=0.5 * 10 ** -(3 if weight < 100 else 1)
    )


def test_because_an_eigenvalue_is_positive() -> None:
    growth = np.linalg.eigvals(baird.semi_gradient()).real.max()
    assert growth == pytest.approx(0.239, abs=5e-4)
    late = baird.sweep(baird.semi_gradient(), 2000)[:, 7]
    assert late[2000] / late[1900] == pytest.approx((1 + baird.STEP * growth) ** 100, rel=0.01)


@pytest.mark.parametrize("matrix", [baird.on_policy, baird.residual_gradient, lambda: baird.semi_gradient(gamma=0.0)])
def test_without_one_of_the_three_it_does_not(matrix) -> None:
    assert np.linalg.eigvals(matrix()).real.max() < 1e-12
    weights = baird.sweep(matrix(), 5000)
    values = np.abs(weights @ baird.features().T)
    assert np.abs(weights).max() <= 12 and values[-1, 6] < 0.5 * values[0, 6]


class TestATargetThatHoldsStill:
    def test_for_one_sweep_it_is_the_semi_gradient(self) -> None:
        assert np.allclose(baird.held(1), np.eye(8) + baird.STEP * baird.semi_gradient())

    def test_it_is_sweeps_against_the_first_weights(self) -> None:
        weights, phi = baird.start(), baird.features()
        target = baird.GAMMA * np.full(7, phi[6] @ weights)
        for _ in range(10):
            weights = weights + baird.STEP * phi.T @ (target - phi @ weights) / 7
        assert np.allclose(baird.held(10) @ baird.start(), weights)

    def test_held_long_enough_nothing_diverges(self) -> None:
        assert [baird.growth(period) > 1 for period in (1, 10, 50, 100, 1000)] == [True, True, True, False, False]
        values = baird.features() @ np.linalg.matrix_power(baird.held(1000), 500) @ baird.start()
        assert np.abs(values).max() < 12 * 0.99**300
