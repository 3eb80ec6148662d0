"""Time to target against the batch: a curve with a knee, and the noise scale beside it."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.batching.digits import orders, regression, train, whole_loss
from finetune.batching.time_to_target import BATCHES, RATES, TARGET, Knee, Reached, fitted_knee, time_to_target


@pytest.fixture(scope="module")
def time(batch_study) -> dict[str, Any]:
    return batch_study.numbers["time"]


def test_larger_batches_save_updates_below_the_knee_and_waste_examples_above(time) -> None:
    runs = {int(batch): found for batch, found in time["runs"].items()}
    assert tuple(runs) == BATCHES
    assert runs[1]["updates"] / runs[8]["updates"] > 5
    assert runs[8]["examples"] / runs[1]["examples"] < 1.5
    assert runs[128]["updates"] / runs[1024]["updates"] < 1.3
    assert runs[1024]["examples"] / runs[128]["examples"] > 6


def test_the_best_step_is_inside_the_grid_and_grows_with_the_batch_below_the_knee(time) -> None:
    rates = [found["rate"] for found in time["runs"].values()]
    assert min(RATES) < min(rates) and max(rates) < max(RATES)
    assert rates[2] / rates[0] == pytest.approx(4)  # the linear rule, found by search
    assert rates[-1] / rates[6] < 2  # 16 times the batch


def test_the_curve_is_fitted_within_a_seventh(time) -> None:
    assert time["worst_fit"] < 1 / 7
    assert time["fewest_examples"] == pytest.approx(time["fewest_updates"] * time["knee"])


def test_the_noise_scale_along_the_way_is_near_the_knee_in_a_tuned_run_alone(time) -> None:
    assert 0.5 < time["noise_over_knee"] < 2
    assert time["timid_over_knee"] > 2
    below = [found["noise_scale"] for batch, found in time["runs"].items() if int(batch) <= time["near"]]
    assert all(0.5 < noise / time["knee"] < 2 for noise in below)


def test_fit_finds_the_knee_of_an_exact_curve() -> None:
    exact = Knee(30.0, 50.0)
    found = fitted_knee([Reached(b, 1.0, exact.updates(b), 0.0, 0.0) for b in (1, 8, 64, 512)])
    assert (found.fewest, found.batch) == pytest.approx((30.0, 50.0))
    assert exact.updates(50) == 2 * 30


def test_the_target_is_reached_when_it_says_so() -> None:
    found = time_to_target(64, [5.0], seeds=1)
    losses = [float(whole_loss(weights)) for weights in train(regression(1), orders(1, 64 * 100), 64, [5.0])]
    first = next(update for update, loss in enumerate(losses, 1) if loss < TARGET)
    assert first <= found.updates <= 1.05 * first + 1
    assert losses[int(found.updates) - 1] < TARGET


def test_the_best_step_brings_all_seeds_there_first() -> None:
    both, alone = time_to_target(64, [1.0, 5.0], seeds=2), time_to_target(64, [5.0], seeds=2)
    assert both == alone
    assert both.updates < time_to_target(64, [1.0], seeds=2).updates
