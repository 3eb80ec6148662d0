"""Floating-point operations of the products in a step; a multiplication and an addition are two."""

from __future__ import annotations

from collections.abc import Callable

import torch

from finetune.sequence import mixing, pairs


def flops_of(operation: str, args: tuple) -> int:
    """Operations of a matrix product, 0 for anything else."""
    rule = _RULES.get(operation)
    return rule(args) if rule else 0


def attention_flops(q: torch.Tensor, k: torch.Tensor, *, causal: bool, window: int | None = None) -> int:
    """Forward pass of attention: scores and their product with the values, over the pairs that are looked at.

    q (b, h, s, d), k (b, h or fewer, s, d). The backward pass makes five products of the two (Dao 2023,
    arXiv:2307.08691).
    """
    batch, heads, tokens, size = q.shape
    return batch * sum(mixing(pairs(tokens, k.shape[2], causal=causal, window=window), heads, size).values())


def _mm(args: tuple) -> int:
    return 2 * args[0].numel() * args[1].shape[-1]


def _addmm(args: tuple) -> int:
    return _mm(args[1:])


def _gemm_4bit(args: tuple) -> int:
    return 2 * args[0].numel() * args[2][0]


_RULES: dict[str, Callable[[tuple], int]] = {
    "aten.mm.default": _mm,
    "aten.mm.out": _mm,
    "aten.bmm.default": _mm,
    "aten.addmm.default": _addmm,
    "aten.baddbmm.default": _addmm,
    "bitsandbytes.gemm_4bit.default": _gemm_4bit,
}
