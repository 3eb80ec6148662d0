"""Attention of packed rows, each by itself: no mask is made, and nothing is computed that a mask would hide.

On a card this is FlashAttention's variable-length kernel, which PyTorch brings (`torch.nn.attention.varlen`); on a
processor PyTorch's own attention runs row by row. Importing this module makes it known to transformers as `varlen`.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "varlen"
ROW_LENGTHS = "row_lengths"
"""Key of a batch: tokens of each row of each pack (packs, most rows), 0 where a pack has fewer. They fill the pack."""
AMPERE = (8, 0)
"""Compute capability that FlashAttention-2 needs."""
WIDEST_HEAD = 256


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    row_lengths: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in each layer: query (b, h, s, d), key and value (b, h or fewer, s, d) to (b, s, h, d).

    Batches that are not packed come without `row_lengths`: transformers makes no mask for a kernel that it does not
    know, and none is needed, since padding is on the right, where no token looks.
    """
    if row_lengths is None:
        return sdpa_attention_forward(module, query, key, value, None, scaling=scaling, **kwargs)
    return packed_attention(query, key, value, row_lengths, scaling), None


def packed_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: torch.Tensor, scale: float | None
) -> torch.Tensor:
    """Causal attention inside each row of each pack. Shapes as in `attention`, `lengths` as `ROW_LENGTHS`."""
    if query.is_cuda:
        return _on_card(query, key, value, lengths, scale)
    return row_by_row(query, key, value, lengths.tolist(), scale)


def row_by_row(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[list[int]], scale: float | None
) -> torch.Tensor:
    """`packed_attention` on a processor."""
    packs = []
    for pack, rows in enumerate(lengths):
        # Rows of no tokens are filler.
        parts = (x[pack : pack + 1].split([row for row in rows if row], dim=2) for x in (query, key, value))
        packs.append(torch.cat([_row(*part, scale) for part in zip(*parts, strict=True)], dim=2))
    return torch.cat(packs).transpose(1, 2).contiguous()


def _row(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
    grouped = query.shape[1] != key.shape[1]
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)


def _on_card(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: torch.Tensor, scale: float | None
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn  # torch 2.11's has no argument for grouped heads, and needs none

    packs, heads, tokens, _ = query.shape
    flat = [x.transpose(1, 2).reshape(packs * tokens, x.shape[1], x.shape[3]) for x in (query, key, value)]
    ends = functional.pad(lengths.flatten().cumsum(0), (1, 0)).to(torch.int32)
    grouped = {"enable_gqa": heads != key.shape[1]} if _knows_groups() else {}
    # The longest row is not asked for: that would wait for the card. Blocks behind a row's end return at once.
    out = varlen_attn(*flat, ends, ends, tokens, tokens, scale=scale, window_size=(-1, 0), **grouped)
    return out.view(packs, tokens, heads, -1)


@torch.compiler.assume_constant_result
def _knows_groups() -> bool:
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def why_not(
    model_config: PretrainedConfig,
    *,
    packed: bool,
    kind: str,
    capability: tuple[int, int] | None,
    dtype: torch.dtype,
    compiled: bool = False,
) -> str | None:
    """Why this kernel cannot run such a model's batches there, None where it can."""
    text = model_config.get_text_config()
    layers = set(getattr(text, "layer_types", None) or ["full_attention"])
    if not packed:
        return "rows are not packed"
    if getattr(text, "sliding_window", None) or layers != {"full_attention"}:
        return "the model's attention has windows"
    if kind != "cuda":
        return "layers are compiled, and a loop over rows would be for every number of them" if compiled else None
    if capability is not None and capability < AMPERE:
        return f"the card's compute capability is {capability[0]}.{capability[1]}, and FlashAttention needs 8.0"
    if dtype.itemsize != 2:
        return f"attention computes in {str(dtype).removeprefix('torch.')}, and FlashAttention in 16 bits"
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return f"heads have {head} numbers, and FlashAttention takes {WIDEST_HEAD}" if head > WIDEST_HEAD else None


AttentionInterface.register(NAME, attention)
