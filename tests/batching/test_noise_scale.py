"""The noise scale is exact where every gradient is known, and its estimate from micro batches is honest."""

from __future__ import annotations

import math

import pytest
import torch

from finetune.batching.digits import digits, noise_scales
from finetune.batching.noise_scale import NoiseScaleAverage, exact_noise_scale, unbiased_pair

EXACT = {0: 72.0, 10: 97.3, 100: 528.5, 500: 3268.5}


@pytest.fixture(scope="module")
def path() -> dict[int, torch.Tensor]:
    """Weights of softmax regression on digits after full-batch steps of 0.5 from zero."""
    (x, y), weights, found = digits(), torch.zeros(65, 10, dtype=torch.float64), {}
    for step in range(max(EXACT) + 1):
        if step in EXACT:
            found[step] = weights
        errors = (x @ weights).softmax(-1) - torch.nn.functional.one_hot(y, 10)
        weights = weights - 0.5 * x.T @ errors / len(x)
    return found


def each(weights: torch.Tensor) -> torch.Tensor:
    """The gradient of every example (examples, parameters)."""
    x, y = digits()
    errors = (x @ weights).softmax(-1) - torch.nn.functional.one_hot(y, 10)
    return (x.unsqueeze(-1) * errors.unsqueeze(-2)).flatten(1)


def draw(gradients: torch.Tensor, counts: list[int], updates: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Estimates of tr Σ and |G|² (2, updates) of updates whose micro batches have `counts` examples."""
    generator, picked = torch.Generator().manual_seed(seed), (updates, sum(counts))
    rows = gradients[torch.randint(len(gradients), picked, generator=generator)]
    sizes = torch.tensor(counts, dtype=torch.float64)
    small = torch.stack([part.mean(1).square().sum(1) for part in rows.split(counts, 1)], 1)
    big = rows.mean(1).square().sum(1)
    return tuple(torch.stack([unbiased_pair(sizes, s, b)[i] for s, b in zip(small, big, strict=True)]) for i in (0, 1))


def average(noise: torch.Tensor, signal: torch.Tensor) -> NoiseScaleAverage:
    """All updates, added one by one."""
    found = NoiseScaleAverage()
    for pair in zip(noise, signal, strict=True):
        found.add(*pair)
    return found


@pytest.mark.parametrize("step", EXACT)
def test_exact_values_along_gradient_descent(path, step: int) -> None:
    assert round(exact_noise_scale(each(path[step])), 1) == EXACT[step]


def test_the_short_form_for_softmax_regression_is_exact(path) -> None:
    runs = torch.stack(list(path.values())).unsqueeze(0)
    assert noise_scales([runs])[0].tolist() == pytest.approx([exact_noise_scale(each(w)) for w in path.values()])


@pytest.mark.parametrize("step", [0, 10])
def test_pair_is_unbiased_for_micro_batches_of_unequal_size(path, step: int) -> None:
    gradients = each(path[step])
    signal = gradients.mean(0).square().sum()
    noise = gradients.square().sum(1).mean() - signal
    for found, exact in zip(draw(gradients, [3, 8, 1, 12], 3000, seed=1), (noise, signal), strict=True):
        error = found.std() / math.sqrt(len(found))
        assert abs(found.mean() - exact) < 3 * error
        assert error < 0.05 * exact  # tight enough to see a bias


@pytest.mark.parametrize("step", [10, 100])
def test_interval_has_the_exact_value_in_95_of_100_cases(path, step: int) -> None:
    gradients, held = each(path[step]), 0
    for seed in range(200):
        found = average(*draw(gradients, [8] * 4, 60, seed)).estimate()
        held += found.low <= exact_noise_scale(gradients) <= found.high
    assert 0.88 * 200 <= held < 200


def test_nothing_bounds_the_estimate_where_there_is_no_gradient(path) -> None:
    """Gradients about their mean are those of an optimum."""
    gradients = each(path[100])
    infinite = [
        math.isinf(average(*draw(gradients - gradients.mean(0), [8] * 4, 60, seed)).estimate().high)
        for seed in range(100)
    ]
    assert sum(infinite) >= 90


def test_a_mean_of_ratios_is_biased_and_the_ratio_of_averages_is_not(path) -> None:
    """Four thousand updates, in twenty parts."""
    gradients = each(path[10])
    exact = exact_noise_scale(gradients)
    noise, signal = (found.view(20, 200) for found in draw(gradients, [16] * 4, 4000, seed=2))
    of_averages = noise.mean(1) / signal.mean(1)
    of_ratios = (noise / signal).mean(1)
    assert (abs(of_averages - exact) < 0.2 * exact).all()
    assert abs(of_averages.median() - exact) < 0.1 * exact
    assert (abs(of_ratios - exact) > 0.2 * exact).sum() >= 15


def test_no_estimate_before_two_updates_and_one_micro_batch_says_nothing() -> None:
    one, four = torch.tensor([8.0]), torch.full((4,), 2.0)
    assert all(value.isnan() for value in unbiased_pair(one, torch.ones(1), torch.tensor(1.0)))
    found = NoiseScaleAverage()
    assert found.estimate() is None
    pair = unbiased_pair(four, torch.tensor([2.0, 3.0, 2.0, 3.0]), torch.tensor(1.0))
    found.add(*pair)
    assert found.estimate() is None
    found.add(*unbiased_pair(one, torch.ones(1), torch.tensor(1.0)))
    assert found.estimate() is None
    found.add(*pair)
    assert found.estimate().value == pytest.approx(float(pair[0] / pair[1]))


def test_three_updates_know_little_of_their_own_spread(path) -> None:
    """Student's quantile: with that of the normal distribution 84 % of such intervals hold the exact value."""
    gradients, held = each(path[10]), 0
    exact = exact_noise_scale(gradients)
    for seed in range(200):
        found = average(*draw(gradients, [8] * 8, 3, seed)).estimate()
        held += found.low <= exact <= found.high
    assert held >= 180
