"""`finetune lab sequence`: what attention and recurrence cost, counted and measured, and what each can remember."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from finetune.sequence import costs
from finetune.sequence.costs import Cost
from finetune.sequence.counting import count_flops, torch_count
from finetune.sequence.measure import HEADS, KINDS, SIZE, WINDOW
from finetune.sequence.recall import PAIRS, RATES, ROWS, VALUES
from finetune.sequence.sequence_plots import plots
from finetune.sequence.studies import growth, recalled
from finetune.study import Study, Table

QUESTION = "What does a layer cost on a sequence of n tokens, and what can it remember of it?"
TOKENS, WIDTH, SHAPE_HEADS = 1024, 512, 8
SIZES = (2048, 2896, 4096)
"""Tokens measured; from 2,048 the matrix of scores is larger than a core's caches."""
GAPS, UPDATES = (0, 32), 300
SETTINGS = {
    "closed form": f"{TOKENS:,} tokens, width {WIDTH}, {SHAPE_HEADS} heads",
    "measured": f"{HEADS} heads of {SIZE}, window {WINDOW}, one thread, {SIZES[0]:,} to {SIZES[-1]:,} tokens",
    "recall": f"{PAIRS} pairs, {VALUES} values, {UPDATES} updates of {ROWS} sequences",
}


@cache
def run() -> Study:
    """Runs everything: about a minute on one core."""
    numbers = {
        "costs": {name: _cost(cost) for name, cost in closed_forms().items()},
        "counters": counters(),
        "growth": growth(SIZES, repeats=2),
        "sizes": list(SIZES),
        "recall": recalled(GAPS, UPDATES, [0]),
    }
    tables = [cost_table(numbers), counter_table(numbers), growth_table(numbers), recall_table(numbers)]
    return Study("sequence", QUESTION, SETTINGS, numbers, tables, findings(numbers), plots(numbers))


def closed_forms() -> dict[str, Cost]:
    """Each kind of layer at TOKENS and WIDTH."""
    shape = (TOKENS, WIDTH, SHAPE_HEADS)
    return {
        "attention": costs.attention(*shape),
        "causal": costs.attention(*shape, causal=True),
        "causal, fused": costs.attention(*shape, causal=True, fused=True),
        "2 key heads, fused": costs.attention(*shape, kv_heads=2, causal=True, fused=True),
        f"window {WINDOW}, fused": costs.attention(*shape, window=WINDOW, fused=True),
        "linear, chunks of 64": costs.linear_attention(*shape, chunk=64),
        "feed-forward": costs.feed_forward(TOKENS, WIDTH, 4 * WIDTH),
        **{kind: costs.recurrence(kind, TOKENS, WIDTH) for kind in costs.GATES},
    }


def _cost(cost: Cost) -> dict[str, Any]:
    names = ("parts", "flops", "parameters", "activations", "score_matrix", "cache", "depth", "path")
    return {name: getattr(cost, name) for name in names}


def counters() -> dict[str, dict[str, int]]:
    """Operations of torch's own modules: the closed form, torch's counter, and torch's with our rules."""
    x_BND, heads = torch.zeros(1, TOKENS, WIDTH), torch.zeros(1, SHAPE_HEADS, TOKENS, WIDTH // SHAPE_HEADS)
    encoder = nn.TransformerEncoderLayer(WIDTH, SHAPE_HEADS, 4 * WIDTH, batch_first=True)
    attention, forward = costs.attention(TOKENS, WIDTH, SHAPE_HEADS), costs.feed_forward(TOKENS, WIDTH, 4 * WIDTH)
    mixing = attention.parts["scores"] + attention.parts["values"]
    runs: dict[str, tuple[Callable[[], object], int]] = {
        "nn.LSTM": (_call(nn.LSTM(WIDTH, WIDTH), x_BND), costs.recurrence("lstm", TOKENS, WIDTH).flops),
        "nn.GRU": (_call(nn.GRU(WIDTH, WIDTH), x_BND), costs.recurrence("gru", TOKENS, WIDTH).flops),
        "scaled_dot_product_attention": (
            lambda: nn.functional.scaled_dot_product_attention(heads, heads, heads),
            mixing,
        ),
        "TransformerEncoderLayer, training": (_call(encoder, x_BND), attention.flops + forward.flops),
        "TransformerEncoderLayer, eval": (_without_gradients(encoder, x_BND), attention.flops + forward.flops),
    }
    return {
        name: {"closed_form": closed, "torch": torch_count(make), "with_rules": count_flops(make)}
        for name, (make, closed) in runs.items()
    }


def _call(module: nn.Module, x_BND: torch.Tensor) -> Callable[[], object]:
    return lambda: module.train()(x_BND.transpose(0, 1) if isinstance(module, nn.RNNBase) else x_BND)


def _without_gradients(module: nn.Module, x_BND: torch.Tensor) -> Callable[[], object]:
    def forward() -> None:
        with torch.no_grad():
            module.eval()(x_BND)

    return forward


def cost_table(numbers: dict[str, Any]) -> Table:
    """The closed forms."""
    columns = ["", "GFLOP", "parameters", "kept for backward", "score matrix, MiB", "cache", "depth", "path"]
    rows = [
        [
            name, f"{one['flops'] / 1e9:.3f}", one["parameters"], one["activations"],
            f"{4 * one['score_matrix'] / 2**20:g}", one["cache"], one["depth"], one["path"],
        ]
        for name, one in numbers["costs"].items()
    ]  # fmt: skip
    return Table(f"One layer on {TOKENS:,} tokens, width {WIDTH}, {SHAPE_HEADS} heads", columns, rows, "costs")


def counter_table(numbers: dict[str, Any]) -> Table:
    """What counters say."""
    rows = [[name, *one.values()] for name, one in numbers["counters"].items()]
    return Table("Operations by three ways", ["", "closed form", "FlopCounterMode", "with our rules"], rows, "counters")


def growth_table(numbers: dict[str, Any]) -> Table:
    """The exponents, trained."""
    return exponents(numbers["growth"], f"Exponents from {SIZES[0]:,} to {SIZES[-1]:,} tokens")


def exponents(growth: dict[str, Any], title: str, name: str = "") -> Table:
    """Exponents of time and memory with their 95 % intervals, of forward passes and of training passes."""
    rows = []
    for kind in KINDS:
        forward, trained = growth[kind].values()
        shown = (forward["time"], trained["time"], trained["memory"])
        rows.append([kind, *(f"{one['value']:.2f} ({one['low']:.2f} to {one['high']:.2f})" for one in shown)])
    return Table(title, ["", "time, forward", "time, trained", "memory, trained"], rows, name)


def recall_table(numbers: dict[str, Any]) -> Table:
    """Accuracy by gap."""
    rows = [
        [name, one["parameters"], *(f"{values[0]:.3f}" for values in one["accuracy"].values())]
        for name, one in numbers["recall"].items()
    ]
    columns = ["", "parameters", *(f"gap {gap}" for gap in GAPS)]
    return Table(f"Accuracy of recall after {UPDATES} updates", columns, rows)


def findings(numbers: dict[str, Any]) -> list[str]:
    """What the tables say."""
    attention, lstm = numbers["costs"]["attention"], numbers["costs"]["lstm"]
    silent = [name for name, one in numbers["counters"].items() if not one["torch"]]
    growth = numbers["growth"]
    time = {kind: growth[kind]["forward and backward"]["time"]["value"] for kind in ("dense", "window", "linear")}
    recalls = {name: one["accuracy"][str(GAPS[-1])][0] for name in RATES if (one := numbers["recall"][name])}
    return [
        f"At {TOKENS:,} tokens of width {WIDTH}, where n = 2d, attention and an LSTM take {attention['flops']:,} and "
        f"{lstm['flops']:,} operations; the LSTM's are {lstm['depth']:,} steps that wait for one another.",
        f"torch's counter gives 0 for {', '.join(silent)}.",
        f"Trained, time grows as n to the {time['dense']:.2f} with dense attention, {time['window']:.2f} with a window "
        f"of {WINDOW}, {time['linear']:.2f} with linear attention.",
        f"Over a gap of {GAPS[-1]} the transformer recalls {recalls['transformer']:.2f}, the LSTM "
        f"{recalls['lstm']:.2f}, with its forget gates open {recalls['lstm, gates open']:.2f} (chance "
        f"{1 / VALUES:.3f}).",
    ]
