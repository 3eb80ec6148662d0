"""Learning rate with batch size, put to the test: k times the batch with k or sqrt(k) times the step, same examples.

A reference run takes steps that suit its small batch. Runs with k times the batch see the same examples in the same
order; the loss where they end, less the reference's of the same seed, is the gap. Where a rule holds it is near zero.
All steps fall linearly to zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from finetune.batching.digits import Optimiser, Weights, network, orders, regression, to_zero, train, whole_loss

POWER = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}
"""A rule multiplies the step by this power of k."""
FACTORS = (2, 4, 8, 16, 32, 64, 128, 256)
GRID = tuple(2.0**-power for power in range(7))
"""Steps of which the best is taken, in parts of what the linear rule gives."""
SEEDS, EXAMPLES = 10, 8192
FEW, LENGTHS = 32, (256, 512, 1024, 2048, 4096)
"""The factor at which runs of different lengths are compared, and their examples."""
WARMUP = 0.1
"""Share of the run over which the step rises, where there is a warm-up."""
EPSILON = 1e-4
"""Adam's ε: with its usual 1e-8, weights of pixels that are nearly always dark move by the rounding of their gradients,
and no two machines agree. Other gradients are 0.01 to 1."""


@dataclass(frozen=True)
class Gap:
    """Loss beyond the reference's: mean over seeds, and their standard deviation, to four decimals."""

    mean: float
    spread: float

    @classmethod
    def of(cls, losses: torch.Tensor, reference: torch.Tensor) -> Gap:
        """From the final losses of the same seeds."""
        difference = losses - reference
        return cls(round(float(difference.mean()), 4), round(float(difference.std()), 4))

    def __str__(self) -> str:
        """To the first digit of the spread, and to four decimals at most."""
        decimals = min(max(-math.floor(math.log10(self.spread)), 0), 4) if self.spread else 4
        return f"{self.mean:z.{decimals}f} ± {self.spread:.{decimals}f}"


@dataclass(frozen=True)
class Reference:
    """Runs of `batch` examples an update from `start`, with steps of `rate` at most."""

    start: Weights
    rate: float
    batch: int = 1
    optimiser: Optimiser = torch.optim.SGD

    def losses(
        self, k: int, rates: Sequence[float], examples: int, warmup: float = 0.0, optimiser: Optimiser | None = None
    ) -> torch.Tensor:
        """Final loss with k times the batch, at each of the step sizes (rates, seeds)."""
        rows = orders(self.start[0].shape[1], examples)
        runs = train(self.start, rows, k * self.batch, rates, optimiser or self.optimiser, to_zero(warmup))
        *_, weights = runs
        return whole_loss(weights)

    def own(self, examples: int) -> torch.Tensor:
        """Final loss of the reference itself (seeds)."""
        return self.losses(1, [self.rate], examples)[0]


def sgd() -> Reference:
    """SGD on softmax regression, one example at a time; its step is half the best."""
    return Reference(regression(SEEDS), 0.32)


def adam() -> Reference:
    """Adam on softmax regression, one example at a time, with its best step."""
    return Reference(regression(SEEDS), 0.064, optimiser=partial(torch.optim.Adam, eps=EPSILON))


def steep(gain: float) -> Reference:
    """SGD on a network whose weights start with standard deviation gain / sqrt(inputs), four examples at a time."""
    return Reference(network(SEEDS, gain), 0.02, 4)


def whole_rule(k: int) -> Optimiser:
    """Adam with averages over as many examples at k times the batch, and ε by the noise, as Malladi et al. scale it.

    Above k = 10, β1 would be negative, and is 0.
    """
    return partial(torch.optim.Adam, betas=(max(0.0, 1 - 0.1 * k), 1 - 0.001 * k), eps=EPSILON / k**0.5)


def rule_gaps(reference: Reference, k: int, own: torch.Tensor) -> dict[str, Gap]:
    """The gap of each rule after EXAMPLES, where the reference ends at `own`, and of the best step of GRID."""
    rates = [reference.rate * k**power for power in POWER.values()]
    rates += [reference.rate * k * part for part in GRID]
    losses = reference.losses(k, rates, EXAMPLES)
    gaps = {rule: Gap.of(ends, own) for rule, ends in zip(POWER, losses, strict=False)}
    grid = losses[len(POWER) :]
    return gaps | {"best": Gap.of(grid[grid.mean(1).argmin()], own)}


def whole_gap(reference: Reference, k: int, own: torch.Tensor) -> Gap:
    """The gap of the square-root rule that scales Adam's averages too."""
    losses = reference.losses(k, [reference.rate * k**0.5], EXAMPLES, optimiser=whole_rule(k))
    return Gap.of(losses[0], own)


def short_gaps(reference: Reference, rule: str) -> dict[int, Gap]:
    """The gap of a rule at the factor FEW in runs of LENGTHS, by their updates."""
    rate = reference.rate * FEW ** POWER[rule]
    batch = FEW * reference.batch
    return {n // batch: Gap.of(reference.losses(FEW, [rate], n)[0], reference.own(n)) for n in LENGTHS}


def warmup_gaps(reference: Reference, k: int, own: torch.Tensor) -> dict[str, Gap]:
    """The gap of the linear rule without warm-up, and with it."""
    ways, rates = {"without": 0.0, "with": WARMUP}, [k * reference.rate]
    return {way: Gap.of(reference.losses(k, rates, EXAMPLES, share)[0], own) for way, share in ways.items()}
