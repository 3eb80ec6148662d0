"""Scaling rules of the learning rate: they hold where their assumptions do, and every failure is a measured gap."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from finetune.batching import linear_rule as rules
from finetune.batching.digits import curvature, digits, losses, network, orders, regression, to_zero, train, whole_loss
from finetune.batching.scaling import FEW_UPDATES

HOLDS = 0.005
"""A gap that counts as none: the reference's loss is 0.07 with SGD and 0.03 with Adam."""


@pytest.fixture(scope="module")
def found(batch_study) -> dict[str, Any]:
    return batch_study.numbers


def surely_above(gap: dict[str, float], least: float) -> bool:
    """Whether the mean gap is above `least` by three standard errors."""
    return gap["mean"] - 3 * gap["spread"] / rules.SEEDS**0.5 > least


@pytest.mark.parametrize("k", ["2", "4", "8"])
def test_linear_rule_holds_for_sgd_while_the_batch_is_small(found, k: str) -> None:
    gaps = found["sgd"]["gaps"][k]
    assert int(k) < found["time"]["knee"] / 5
    assert abs(gaps["linear"]["mean"]) < HOLDS
    assert surely_above(gaps["sqrt"], 3 * HOLDS)
    assert surely_above(gaps["none"], 6 * HOLDS)


@pytest.mark.parametrize(("k", "rule_gap", "best_gap"), [("64", 0.05, 0.02), ("128", 0.2, 0.05), ("256", 0.7, 0.1)])
def test_linear_rule_fails_beyond_the_critical_batch_and_no_step_mends_it(
    found, k: str, rule_gap: float, best_gap: float
) -> None:
    gaps = found["sgd"]["gaps"][k]
    assert int(k) > found["time"]["knee"]
    assert int(k) * found["sgd"]["rate"] > 10 * found["sgd"]["step_limit"]
    assert surely_above(gaps["linear"], rule_gap)
    assert surely_above(gaps["best"], best_gap)


@pytest.mark.parametrize("k", ["2", "4", "8"])
def test_square_root_rule_holds_for_adam(found, k: str) -> None:
    gaps = found["adam"]["gaps"][k]
    assert abs(gaps["sqrt"]["mean"]) < HOLDS
    assert abs(gaps["whole"]["mean"]) < HOLDS
    assert gaps["none"]["mean"] > 4 * gaps["sqrt"]["mean"]


@pytest.mark.parametrize(("k", "least"), [("8", 0.005), ("16", 0.015), ("32", 0.05)])
def test_linear_rule_overshoots_for_adam(found, k: str, least: float) -> None:
    gaps = found["adam"]["gaps"][k]
    assert surely_above(gaps["linear"], least)
    assert gaps["linear"]["mean"] > 3 * gaps["sqrt"]["mean"]


def test_square_root_rule_fails_for_adam_beyond_the_critical_batch(found) -> None:
    gaps = found["adam"]["gaps"]
    assert surely_above(gaps["64"]["sqrt"], 0.02)
    assert surely_above(gaps["256"]["sqrt"], 0.15)
    assert surely_above(gaps["256"]["best"], 0.1)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_both_rules_fail_where_few_updates_are_left(found, name: str) -> None:
    """The same batch and the same step, shorter runs: FEW_UPDATES, below which `plan` warns, parts large from small."""
    few = {int(updates): gap for updates, gap in found[name]["few"].items()}
    means = [gap["mean"] for gap in few.values()]
    assert means == sorted(means, reverse=True)
    assert all((gap["mean"] > 0.04) == (updates < FEW_UPDATES) for updates, gap in few.items())
    assert surely_above(few[32], 0.04)
    assert surely_above(few[8], 0.3)


@pytest.mark.parametrize(("k", "least"), [("8", 0.05), ("16", 0.8)])
def test_linear_rule_holds_from_a_steep_start_with_warmup_alone(found, k: str, least: float) -> None:
    gaps = found["warmup"]["steep"]["gaps"][k]
    assert surely_above(gaps["without"], least)
    assert gaps["with"]["mean"] < gaps["without"]["mean"] / 10
    assert gaps["with"]["mean"] < 0.1


def test_warmup_does_not_mend_what_is_too_large_after_it(found) -> None:
    assert surely_above(found["warmup"]["steep"]["gaps"]["32"]["with"], 0.5)


def test_warmup_changes_nothing_where_the_start_is_not_steep(found) -> None:
    steep, he = found["warmup"]["steep"], found["warmup"]["he"]
    assert steep["curvature"] > 10 * he["curvature"]
    assert all(abs(gaps["with"]["mean"] - gaps["without"]["mean"]) < 0.01 for gaps in he["gaps"].values())


def test_runs_of_any_batch_see_the_same_examples_and_steps_of_the_same_sum() -> None:
    assert torch.equal(orders(3, 2000)[:, :500], orders(3, 500))
    assert sorted(orders(1, 1797)[0].tolist()) == list(range(1797))
    for warmup in (0.0, 0.1):
        rise = to_zero(warmup)
        sums = [sum(rise((update + 0.5) / n) for update in range(n)) / n for n in (10, 200)]
        assert sums == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam])
def test_a_run_among_many_is_the_run_alone(optimiser) -> None:
    """Against torch's optimiser with the step as its learning rate, one run at a time."""
    (x, y), rows, start, rates = digits(), orders(2, 64), network(2, 1.4), [0.01, 0.03]
    *_, together = train(start, rows, 16, rates, optimiser)
    for seed in range(2):
        alone = [layer[:1, seed : seed + 1].clone().requires_grad_() for layer in start]
        step = optimiser(alone, lr=rates[1])
        for picked in rows[seed].split(16):
            step.zero_grad()
            losses(alone, x[picked], y[picked]).sum().backward()
            step.step()
        for one, many in zip(alone, together, strict=True):
            assert torch.allclose(one[0, 0], many[1, seed], atol=1e-12)


def test_loss_and_curvature_are_torch_s_own() -> None:
    (x, y), weights = digits(), network(1, 1.4)
    scores = x
    for layer in weights[:-1]:
        scores = (scores @ layer[0, 0]).relu()
    expected = torch.nn.functional.cross_entropy(scores @ weights[-1][0, 0], y)
    assert whole_loss(weights)[0, 0] == pytest.approx(float(expected))
    # Softmax regression at zero: X'X / n times the covariance of ten equal chances, whose eigenvalues are 1/10 and 0.
    largest = torch.linalg.eigvalsh(x.T @ x / len(x))[-1] / 10
    assert curvature(regression(1))[0, 0] == pytest.approx(float(largest), rel=1e-6)
