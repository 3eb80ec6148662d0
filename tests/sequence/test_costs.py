"""Closed forms: the numbers that stand in textbooks, sums by hand, and what torch really keeps and multiplies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from finetune.sequence import cells, costs, mixers
from finetune.sequence.costs import pairs
from finetune.sequence.counting import count_flops

MIB = 2**20
MODULES = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def test_attention_and_an_lstm_at_1024_tokens_of_width_512() -> None:
    found = costs.attention(1024, 512, 8)
    assert found.parts == {"projections": 2_147_483_648, "scores": 1_073_741_824, "values": 1_073_741_824}
    assert found.flops == 4_294_967_296
    assert (4 * found.score_matrix / MIB, 2 * found.score_matrix / MIB) == (32, 16)
    assert costs.recurrence("lstm", 1024, 512).flops == 4_294_967_296
    assert costs.crossing(512, 512, 512) == 1024


@pytest.mark.parametrize(
    ("queries", "keys", "causal", "window"),
    [(9, 9, False, None), (9, 9, True, None), (9, 9, True, 4), (9, 9, True, 1), (9, 9, True, 20), (1, 9, True, None),
     (1, 9, True, 4), (3, 9, True, 4), (3, 9, True, 8), (3, 9, True, None), (9, 9, False, 4)],
)  # fmt: skip
def test_pairs_are_what_the_mask_leaves(queries: int, keys: int, causal: bool, window: int | None) -> None:
    at = torch.arange(queries)[:, None] + keys - queries
    key = torch.arange(keys)
    allowed = torch.ones(queries, keys, dtype=torch.bool)
    if causal or window:
        allowed &= key <= at
    if window:
        allowed &= key > at - window
    assert pairs(queries, keys, causal=causal, window=window) == int(allowed.sum())


def test_grouped_heads_save_cache_and_projections_but_no_scores() -> None:
    many, few = (costs.attention(100, 64, 8, kv_heads=heads) for heads in (8, 2))
    assert few.cache * 4 == many.cache == 2 * 100 * 64
    assert few.parameters == 64 * (64 + 2 * 16 + 64)
    assert few.parts["scores"] == many.parts["scores"]


def test_a_window_bounds_cache_and_lengthens_the_path() -> None:
    found = costs.attention(1000, 64, 8, window=100)
    assert (found.cache, found.path) == (2 * 64 * 100, 11)  # 99 tokens back with each layer: 10 layers reach 990
    assert costs.attention(1000, 64, 8, window=1).path is None, "nobody sees anyone"
    assert costs.attention(1000, 64, 8, window=5000) == costs.attention(1000, 64, 8, causal=True)


@pytest.mark.parametrize("kind", MODULES)
def test_recurrences_have_torchs_parameters_operations_and_what_is_kept(kind: str) -> None:
    module = MODULES[kind](24, 16, batch_first=True)
    x_BND = torch.randn(1, 50, 24)
    found = costs.recurrence(kind, 50, 24, 16)
    assert found.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert found.flops == count_flops(lambda: cells.run(module, x_BND))
    assert kept(lambda: cells.run(module, x_BND), *module.parameters()) == pytest.approx(found.activations, rel=0.02)


@pytest.mark.parametrize("fused", [False, True])
def test_attention_keeps_what_is_said(fused: bool) -> None:
    found = costs.attention(96, 32, 4, causal=True, fused=fused)
    weights = [nn.Parameter(torch.randn(32, 32)) for _ in range(4)]
    x_BND, mix = torch.randn(1, 96, 32), mixers.fused if fused else mixers.dense

    def run() -> torch.Tensor:
        q, k, v = ((x_BND @ weight).view(1, 96, 4, 8).transpose(1, 2) for weight in weights[:3])
        return mix(q, k, v).transpose(1, 2).reshape(1, 96, 32) @ weights[3]

    mask = 0 if fused else 96 * 96  # of which is later: a number of one byte for each pair
    assert kept(run, *weights) - mask == pytest.approx(found.activations, rel=0.01)


def test_linear_attention_keeps_and_multiplies_what_is_said() -> None:
    found = costs.linear_attention(256, 64, 4, chunk=32)
    q, k, v = (torch.randn(1, 4, 256, 16, requires_grad=True) for _ in range(3))
    projected = found.activations - 256 * 64  # without what the projections read
    assert kept(lambda: mixers.linear(q, k, v, 32)) == pytest.approx(projected, rel=0.2)
    # values carry one more number: the sum of the weights
    products = found.parts["scores"] + (found.parts["values"] + found.parts["state"]) * 17 // 16
    assert count_flops(lambda: mixers.linear(q, k, v, 32)) == products


@pytest.mark.parametrize("gated", [False, True])
def test_feed_forward_keeps_what_is_said(gated: bool) -> None:
    up, gate, down = nn.Linear(32, 96, bias=False), nn.Linear(32, 96, bias=False), nn.Linear(96, 32, bias=False)
    x_BND = torch.randn(1, 40, 32)

    def run() -> torch.Tensor:
        return down(nn.functional.silu(gate(x_BND)) * up(x_BND)) if gated else down(nn.functional.gelu(up(x_BND)))

    found = costs.feed_forward(40, 32, 96, gated=gated)
    weights = [up.weight, down.weight, *([gate.weight] if gated else [])]
    assert found.parameters == sum(weight.numel() for weight in weights)
    assert found.flops == count_flops(run)
    assert kept(run, *weights) == found.activations


def kept(run: Callable[[], torch.Tensor], *weights: torch.Tensor) -> int:
    """Numbers that autograd keeps of a forward pass, `weights` left out, each storage once."""
    storages: dict[int, torch.Tensor] = {}
    own = {weight.untyped_storage().data_ptr() for weight in weights}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = run()
    del out
    return sum(t.untyped_storage().nbytes() // t.element_size() for at, t in storages.items() if at not in own)
