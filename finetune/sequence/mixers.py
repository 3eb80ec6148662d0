"""Ways for a token to learn of those before it, under one signature: q, k, v (B, H, N, S) to (B, H, N, S), causal.

B batch, H heads, N tokens, S head size, C chunks, W window or tokens of a chunk.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def dense(q_BHNS: torch.Tensor, k_BHNS: torch.Tensor, v_BHNS: torch.Tensor) -> torch.Tensor:
    """Softmax attention written out: the matrix of scores is there (transformers' `eager`)."""
    scores_BHNN = q_BHNS @ k_BHNS.transpose(-1, -2) / math.sqrt(q_BHNS.shape[-1])
    tokens = q_BHNS.shape[2]
    later_NN = torch.ones(tokens, tokens, dtype=torch.bool, device=q_BHNS.device).triu_(1)
    return scores_BHNN.masked_fill_(later_NN, -torch.inf).softmax(-1) @ v_BHNS


def fused(q_BHNS: torch.Tensor, k_BHNS: torch.Tensor, v_BHNS: torch.Tensor) -> torch.Tensor:
    """The same function by torch's kernel, which keeps a block of scores at a time (`sdpa`)."""
    return functional.scaled_dot_product_attention(q_BHNS, k_BHNS, v_BHNS, is_causal=True)


def windowed(q_BHNS: torch.Tensor, k_BHNS: torch.Tensor, v_BHNS: torch.Tensor, window: int) -> torch.Tensor:
    """Softmax attention to the token itself and the W - 1 before it (Beltagy et al. 2020). Chunks of W tokens look at
    themselves and the chunk before: half of those pairs are masked, none further back is computed."""
    tokens = q_BHNS.shape[2]
    if tokens <= window:
        return fused(q_BHNS, k_BHNS, v_BHNS)
    q_BHCWS, k_BHCWS, v_BHCWS = (_chunked(x, window) for x in (q_BHNS, k_BHNS, v_BHNS))
    k_BHCUS, v_BHCUS = (_with_the_one_before(x) for x in (k_BHCWS, v_BHCWS))  # U is two windows
    at_W, key_U = torch.arange(window)[:, None], torch.arange(2 * window) - window
    near_WU = (key_U <= at_W) & (key_U > at_W - window)
    near_CWU = near_WU.repeat(q_BHCWS.shape[2], 1, 1)
    near_CWU[0, :, :window] = False  # before the first chunk there is none
    mixed_BHCWS = functional.scaled_dot_product_attention(
        *(x.flatten(0, 1) for x in (q_BHCWS, k_BHCUS, v_BHCUS)), attn_mask=near_CWU.to(q_BHNS.device)
    )
    return mixed_BHCWS.flatten(1, 2)[:, :tokens].view_as(v_BHNS)


def linear(q_BHNS: torch.Tensor, k_BHNS: torch.Tensor, v_BHNS: torch.Tensor, chunk: int = 64) -> torch.Tensor:
    """Attention whose weights are products of positive features, elu(x) + 1, so that all before a chunk is a sum of
    S x S numbers (Katharopoulos et al. 2020): a recurrence, whose steps are chunks."""
    tokens = q_BHNS.shape[2]
    q_BHCWS, k_BHCWS = (_chunked(functional.elu(x) + 1, chunk) for x in (q_BHNS, k_BHNS))
    k_BHCWS = k_BHCWS * _chunked(torch.ones_like(k_BHNS[..., :1]), chunk)  # features of what fills the last chunk: 0
    v_BHCWS = _chunked(functional.pad(v_BHNS, (0, 1), value=1.0), chunk)  # its last number adds the weights up
    within_BHCWW = (q_BHCWS @ k_BHCWS.transpose(-1, -2)).tril()
    sums_BHCSS = (k_BHCWS.transpose(-1, -2) @ v_BHCWS).cumsum(2).roll(1, 2)
    before_BHCSS = torch.cat([torch.zeros_like(sums_BHCSS[:, :, :1]), sums_BHCSS[:, :, 1:]], 2)
    mixed_BHNS = (within_BHCWW @ v_BHCWS + q_BHCWS @ before_BHCSS).flatten(2, 3)[:, :, :tokens]
    return mixed_BHNS[..., :-1] / mixed_BHNS[..., -1:]


def _chunked(x_BHNS: torch.Tensor, size: int) -> torch.Tensor:
    """(B, H, N, S) to (B, H, C, W, S), the last chunk filled with zeros."""
    missing = -x_BHNS.shape[2] % size
    return functional.pad(x_BHNS, (0, 0, 0, missing)).unflatten(2, (-1, size))


def _with_the_one_before(x_BHCWS: torch.Tensor) -> torch.Tensor:
    before_BHCWS = torch.cat([torch.zeros_like(x_BHCWS[:, :, :1]), x_BHCWS[:, :, :-1]], 2)
    return torch.cat([before_BHCWS, x_BHCWS], 3)
