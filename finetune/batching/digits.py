"""Training runs on scikit-learn's handwritten digits, many at once: softmax regression and a ReLU network.

Runs that differ in step size and seed are one batched computation in float64. Weights are a list of layers, each
(rates, seeds, in, out); a bias is a column of ones in the input, and the hidden layers have none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from sklearn.datasets import load_digits

Weights = list[torch.Tensor]
Optimiser = Callable[..., torch.optim.Optimizer]
Schedule = Callable[[float], float]
"""The step, in parts of its largest, when this share of the run is done."""

HIDDEN = (64, 64, 64)
HE = math.sqrt(2)
"""Standard deviation of He et al. 2015 (arXiv:1502.01852) for ReLU layers, times the root of their inputs."""


@cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """The 1,797 images of 8 x 8 pixels, scaled to 0 to 1, with a column of ones (1797, 65); their digits (1797)."""
    pixels, labels = load_digits(return_X_y=True)
    x = np.hstack([pixels / 16, np.ones((len(pixels), 1))])
    return torch.from_numpy(x), torch.from_numpy(labels).long()


def regression(seeds: int) -> Weights:
    """Softmax regression from zero: its loss is convex."""
    return [torch.zeros(1, seeds, 65, 10, dtype=torch.float64)]


def network(seeds: int, gain: float) -> Weights:
    """A ReLU network with normal weights of standard deviation gain / sqrt(inputs), drawn anew for each seed."""
    sizes, rngs = (65, *HIDDEN, 10), [np.random.default_rng([seed, 1]) for seed in range(seeds)]
    return [
        torch.from_numpy(np.stack([[rng.standard_normal((inputs, outputs)) for rng in rngs]])) * gain / inputs**0.5
        for inputs, outputs in pairwise(sizes)
    ]


def orders(seeds: int, examples: int) -> torch.Tensor:
    """Rows in the order each seed sees them (seeds, examples): all once, shuffled, then all again, shuffled anew.

    A longer order begins with the shorter one, whatever batch it is cut into.
    """
    rngs, n = [np.random.default_rng([seed, 0]) for seed in range(seeds)], len(digits()[1])
    epochs = range(math.ceil(examples / n))
    shuffled = np.stack([np.concatenate([rng.permutation(n) for _ in epochs]) for rng in rngs])
    return torch.from_numpy(shuffled[:, :examples])


def losses(weights: Weights, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of each run (rates, seeds): over the same examples, x (b, 65) and y (b), or over those of its
    seed, x (seeds, b, 65) and y (seeds, b)."""
    scores = torch.einsum("bi,rsio->rsbo" if x.dim() == 2 else "sbi,rsio->rsbo", x, weights[0])
    for layer in weights[1:]:
        scores = scores.relu() @ layer
    right = scores.gather(-1, y.expand(scores.shape[:-1]).unsqueeze(-1)).squeeze(-1)
    return (scores.logsumexp(-1) - right).mean(-1)


@torch.no_grad()
def whole_loss(weights: Weights) -> torch.Tensor:
    """Loss of each run over all examples (rates, seeds)."""
    return losses(weights, *digits())


def constant(done: float) -> float:
    """The same step throughout."""
    return 1.0


def to_zero(warmup: float = 0.0) -> Schedule:
    """Rises linearly over the share `warmup` of the run, then falls linearly to zero at its end."""
    return lambda done: done / warmup if done < warmup else (1 - done) / (1 - warmup)


def train(
    start: Weights,
    rows: torch.Tensor,
    batch: int,
    rates: Sequence[float],
    optimiser: Optimiser = torch.optim.SGD,
    schedule: Schedule = constant,
) -> Iterator[Weights]:
    """The weights after each update of runs from `start` over `rows` (seeds, examples), with each of the step sizes.

    The tensors that it yields are the same each time. What is left of the rows and fills no batch is not used.
    """
    x, y = digits()
    weights = [layer.repeat(len(rates), 1, 1, 1).requires_grad_() for layer in start]
    step = torch.tensor(rates, dtype=torch.float64).view(-1, 1, 1, 1)
    unit, updates = optimiser(weights, lr=1.0), rows.shape[1] // batch
    for update in range(updates):
        picked = rows[:, update * batch : (update + 1) * batch]
        unit.zero_grad()
        losses(weights, x[picked], y[picked]).sum().backward()
        # The middle of the update: then the steps of a run add up to the same for every batch.
        _step(unit, weights, schedule((update + 0.5) / updates) * step)
        yield weights


@torch.no_grad()
def _step(unit: torch.optim.Optimizer, weights: Weights, step: torch.Tensor) -> None:
    """An update with a step size for each run: what moves by 1 at learning rate 1 moves by `step`."""
    before = [layer.clone() for layer in weights]
    unit.step()
    for old, layer in zip(before, weights, strict=True):
        layer.copy_(old + step * (layer - old))


@torch.no_grad()
def noise_scales(weights: Weights) -> torch.Tensor:
    """Exact noise scale tr Σ / |G|² of softmax regression at each run's weights (rates, seeds)."""
    x, y = digits()
    errors = (x @ weights[0]).softmax(-1) - torch.nn.functional.one_hot(y, 10)
    each = (errors.square().sum(-1) * x.square().sum(-1)).mean(-1)
    signal = (x.T @ errors / len(x)).square().sum((-2, -1))
    return (each - signal) / signal


def curvature(weights: Weights, iterations: int = 50) -> torch.Tensor:
    """The largest eigenvalue of the Hessian of each run's loss (rates, seeds), by power iteration."""
    layers = [layer.detach().clone().requires_grad_() for layer in weights]
    gradient = torch.autograd.grad(losses(layers, *digits()).sum(), layers, create_graph=True)
    rng = np.random.default_rng(0)
    vector = [torch.from_numpy(rng.standard_normal(layer.shape)) for layer in layers]
    for _ in range(iterations):
        length = sum(part.square().sum((-2, -1), keepdim=True) for part in vector).sqrt()
        vector = [part / length for part in vector]
        along = sum((slope * part).sum() for slope, part in zip(gradient, vector, strict=True))
        product = torch.autograd.grad(along, layers, retain_graph=True)
        value = sum((part * moved).sum((-2, -1)) for part, moved in zip(vector, product, strict=True))
        vector = list(product)
    return value
