"""Measurements: exponents of what is known, and what time and memory really do, coarsely."""

from __future__ import annotations

import math

import pytest
import torch

from finetune.sequence import measure
from finetune.sequence.measure import crossing, exponent, layer, peak_bytes, seconds

SIZES = (256, 512, 1024, 2048)


def test_an_exact_power_has_its_exponent_and_no_margin() -> None:
    found = exponent(SIZES, [3 * size**1.5 for size in SIZES])
    assert (found.value, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5))


def test_noise_widens_the_interval_around_the_truth() -> None:
    generator = torch.Generator().manual_seed(0)
    inside = 0
    for _ in range(200):
        noise = torch.randn(len(SIZES), generator=generator).mul(0.1).exp().tolist()
        found = exponent(SIZES, [size**2 * factor for size, factor in zip(SIZES, noise, strict=True)])
        inside += found.low <= 2 <= found.high
    assert 182 <= inside <= 198  # 95 % of 200; outside once in a thousand seeds


def test_where_lines_cross() -> None:
    quadratic, linear = [size**2 for size in SIZES], [700 * size for size in SIZES]
    assert crossing(SIZES, quadratic, linear) == pytest.approx(700)
    assert crossing(SIZES, linear, quadratic) is None, "it is overtaken"
    assert crossing(SIZES, [1.0] * 4, [2.0] * 4) is None
    assert crossing(SIZES, [2.0] * 4, [1.0] * 4) == 256


@pytest.mark.parametrize(
    ("kind", "expected"), [("dense", 2), ("fused", 1), ("window", 1), ("linear", 1), ("lstm", 1)]
)  # fmt: skip
def test_memory_grows_as_the_closed_form_says(kind: str, expected: int) -> None:
    found = exponent(SIZES, [peak_bytes(*layer(kind, size), backward=True) for size in SIZES])
    assert found.value == pytest.approx(expected, abs=0.12)


def test_dense_attention_holds_its_scores() -> None:
    run, inputs = layer("dense", 512)
    scores = 4 * measure.HEADS * 512**2
    assert scores < peak_bytes(run, inputs, backward=False) < 3 * scores
    assert 2 * scores < peak_bytes(run, inputs, backward=True) < 4 * scores


def test_time_of_dense_attention_overtakes_that_of_a_window() -> None:
    """Coarse: eight times the tokens cost dense attention four times as much more."""
    ratios = {kind: _ratio(kind) for kind in ("dense", "window")}
    assert ratios["dense"] > 2 * ratios["window"]
    assert math.isfinite(ratios["window"])


def _ratio(kind: str) -> float:
    small, large = (seconds(layer(kind, tokens)[0], backward=False) for tokens in (256, 2048))
    return large / small
