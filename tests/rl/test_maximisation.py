"""Maxima of noisy estimates: closed forms where there are, and a sample of a million where there are not."""

from __future__ import annotations

import math

import pytest
import torch

from finetune.rl.maximisation import chosen, double

VALUES = torch.tensor([1.0, 0.0, 0.3, -2.0], dtype=torch.float64)


@pytest.mark.parametrize(("actions", "expected"), [(2, 1 / math.sqrt(math.pi)), (3, 1.5 / math.sqrt(math.pi))])
def test_the_maximum_of_noise_has_a_closed_form(actions: int, expected: float) -> None:
    probabilities_A, maximum = chosen(torch.zeros(actions), noise=2.0)
    assert maximum == pytest.approx(2 * expected, abs=1e-9)
    assert probabilities_A.tolist() == pytest.approx([1 / actions] * actions, abs=1e-9)


def test_it_is_what_a_sample_says() -> None:
    """A million draws, seeded: every mean within 4.5 of its standard errors, which it would leave once in 100,000."""
    draws, correlation = 1_000_000, 0.5
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, draws, 4, generator=generator, dtype=torch.float64)
    chooser = VALUES + first
    valuer = VALUES + correlation * first + math.sqrt(1 - correlation**2) * second
    picked = chooser.argmax(1, keepdim=True)
    probabilities_A, maximum = chosen(VALUES, noise=1.0)
    for sampled, exact in [
        (chooser.max(1).values, maximum),
        (valuer.gather(1, picked).squeeze(1), double(VALUES, 1.0, correlation)),
        ((picked == 0).double().squeeze(1), float(probabilities_A[0])),
    ]:
        assert abs(float(sampled.mean()) - exact) < 4.5 * float(sampled.std()) / math.sqrt(draws)


def test_one_and_the_same_network_is_no_double() -> None:
    assert double(VALUES, 1.0, correlation=1.0) == pytest.approx(chosen(VALUES, 1.0)[1], abs=1e-12)
    assert double(VALUES, 1.0) < float(VALUES.max()) < chosen(VALUES, 1.0)[1]
