"""Each way of mixing against its definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from finetune.sequence import cells, mixers
from finetune.sequence.counting import count_flops

TOKENS = 100


@pytest.fixture
def qkv() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 3, TOKENS, 8, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)
    ]


def masked_softmax(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    at = torch.arange(TOKENS)
    seen = (at <= at[:, None]) & (at > at[:, None] - window)
    return (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~seen, -torch.inf).softmax(-1) @ v


def same(one: torch.Tensor, other: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    torch.testing.assert_close(one, other)
    gradients = [torch.autograd.grad(out.pow(2).sum(), inputs, retain_graph=True) for out in (one, other)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_dense_and_fused_are_causal_softmax(qkv: list[torch.Tensor]) -> None:
    for mix in (mixers.dense, mixers.fused):
        same(mix(*qkv), masked_softmax(*qkv, TOKENS), qkv)


@pytest.mark.parametrize("window", [1, 7, 32, 50, 99, 100, 300])
def test_a_window_is_softmax_over_the_window(qkv: list[torch.Tensor], window: int) -> None:
    same(mixers.windowed(*qkv, window), masked_softmax(*qkv, window), qkv)


@pytest.mark.parametrize("chunk", [1, 16, 33, 100, 256])
def test_linear_attention_is_its_quadratic_form(qkv: list[torch.Tensor], chunk: int) -> None:
    q, k, v = qkv
    weights = ((functional.elu(q) + 1) @ (functional.elu(k) + 1).transpose(-1, -2)).tril()
    same(mixers.linear(*qkv, chunk), weights / weights.sum(-1, keepdim=True) @ v, qkv)


@pytest.mark.parametrize(("name", "grows"), [("dense", 4), ("windowed", 2), ("linear", 2)])
def test_operations_grow_as_the_name_says(name: str, grows: int) -> None:
    extra = {"windowed": (16,), "linear": (16,)}.get(name, ())
    small, large = (
        count_flops(lambda n=n: getattr(mixers, name)(*torch.zeros(3, 1, 1, n, 8), *extra)) for n in (256, 512)
    )
    assert large / small == grows


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_cells_give_what_torch_gives(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    module, x_BND = kind(6, 5, batch_first=True).double(), torch.randn(3, 20, 6, dtype=torch.float64)
    torch.testing.assert_close(cells.run(module, x_BND), module(x_BND)[0])
