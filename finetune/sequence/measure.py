"""Time and memory of layers on sequences, and the exponent with which they grow.

Time is processor time of one thread, so that what else runs on the machine counts little. Memory is that of all tensors
alive, at its peak, beyond the inputs; buffers inside a kernel are not seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import linregress
from scipy.stats import t as student
from torch import nn

from finetune.live_tensors import LiveTensors
from finetune.sequence import mixers

HEADS, SIZE = 2, 64
WIDTH = HEADS * SIZE
WINDOW = 128
ATTENTION: dict[str, Callable[..., torch.Tensor]] = {
    "dense": mixers.dense,
    "fused": mixers.fused,
    "window": lambda q, k, v: mixers.windowed(q, k, v, WINDOW),
    "linear": mixers.linear,
}
"""Mixing alone, without projections."""
RECURRENT: dict[str, type[nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
"""torch's modules, products of the input included: they are not kept apart."""
KINDS = (*ATTENTION, *RECURRENT)
LEAST = 0.02
"""Seconds that a measurement takes at least: shorter runs are repeated within it."""

Run = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Exponent:
    """y grows as n to the power of `value`; `low` and `high` bound it with 95 % confidence (Student's t on the slope of
    the logarithms)."""

    value: float
    low: float
    high: float


def exponent(sizes: Sequence[int], values: Sequence[float]) -> Exponent:
    """Least squares on logarithms; three points and more."""
    fit = linregress(np.log(sizes), np.log(values))
    margin = student.ppf(0.975, len(sizes) - 2) * fit.stderr
    return Exponent(float(fit.slope), float(fit.slope - margin), float(fit.slope + margin))


def layer(kind: str, tokens: int, *, rows: int = 1, width: int = WIDTH) -> tuple[Run, list[torch.Tensor]]:
    """A layer of one of KINDS on seeded inputs, (rows, tokens, width), and its inputs and weights."""
    generator = torch.Generator().manual_seed(tokens)
    if kind in RECURRENT:
        module = RECURRENT[kind](width, width, batch_first=True)
        x_BND = torch.randn(rows, tokens, width, generator=generator, requires_grad=True)
        return lambda: module(x_BND)[0], [x_BND, *module.parameters()]
    shape = (rows, width // SIZE, tokens, SIZE)
    inputs = [torch.randn(shape, generator=generator, requires_grad=True) for _ in range(3)]
    return lambda: ATTENTION[kind](*inputs), inputs


def projections(tokens: int, width: int) -> tuple[Run, list[torch.Tensor]]:
    """The four projections of attention on (1, tokens, width)."""
    weights = [torch.randn(width, width, requires_grad=True) for _ in range(4)]
    x_BND = torch.randn(1, tokens, width, requires_grad=True)
    return lambda: sum(x_BND @ weight for weight in weights), [x_BND, *weights]


def seconds(run: Run, *, backward: bool, repeats: int = 3) -> float:
    """Processor seconds of one pass: the least of `repeats`, each of LEAST seconds or more."""

    def once() -> None:
        with torch.set_grad_enabled(backward):
            out = run()
        if backward:
            out.sum().backward()

    with one_thread():
        once()
        passes = max(1, round(LEAST / max(_timed(once, 1), 1e-9)))
        return min(_timed(once, passes) for _ in range(repeats))


def _timed(once: Callable[[], None], passes: int) -> float:
    started = time.process_time()
    for _ in range(passes):
        once()
    return (time.process_time() - started) / passes


def peak_bytes(run: Run, inputs: list[torch.Tensor], *, backward: bool) -> int:
    """Bytes alive at the peak of a pass, beyond inputs and weights."""
    live = LiveTensors()
    live.begin_with(iter(inputs))
    held = live.peak
    with one_thread(), live, torch.set_grad_enabled(backward):
        out = run()
        if backward:
            out.sum().backward()
    for tensor in inputs:
        tensor.grad = None
    return live.peak - held


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread while it is entered."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def crossing(sizes: Sequence[int], growing: Sequence[float], other: Sequence[float]) -> float | None:
    """Tokens at which `growing` overtakes `other` for good, between measured sizes by logarithms; None where it does
    not within them."""
    gaps = np.log(growing) - np.log(other)
    below = np.flatnonzero(gaps < 0)
    if len(below) == len(gaps) or not len(below):
        return None if len(below) else float(sizes[0])
    at = below[-1]
    if at == len(gaps) - 1:
        return None
    share = gaps[at] / (gaps[at] - gaps[at + 1])
    return float(np.exp(np.log(sizes[at]) + share * (np.log(sizes[at + 1]) - np.log(sizes[at]))))
