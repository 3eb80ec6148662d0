"""Operations of a forward pass of a language model over one row, and from which length attention is most of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from finetune.sequence.costs import attention, feed_forward, mixing, pairs

LookedAt = Callable[[int | None], int]
"""Pairs of query and key that a layer computes over a row, given its window, None where it has none."""


@dataclass(frozen=True)
class RowCost:
    """Operations of a forward pass: `weights`, products with weights, the output layer's included; `mixing`, scores and
    their products with the values."""

    weights: int
    mixing: int

    @property
    def flops(self) -> int:
        """All of them."""
        return self.weights + self.mixing

    @property
    def share(self) -> float:
        """What part of them mixing is."""
        return self.mixing / self.flops


def row_cost(config: PretrainedConfig, tokens: int, looked_at: LookedAt) -> RowCost:
    """Of a decoder with gated feed-forward layers, which all the families in DESIGN have; of a mixture, what one token
    is sent through."""
    text = config.get_text_config()
    width, heads = text.hidden_size, text.num_attention_heads
    size = getattr(text, "head_dim", None) or width // heads
    layer = attention(tokens, width, heads, kv_heads=getattr(text, "num_key_value_heads", None), head_size=size)
    inner, experts = _inner(text)
    weights = layer.parts["projections"] + experts * feed_forward(tokens, width, inner, gated=True).flops
    of_window = Counter(windows(text))  # layers alike are asked for once: rows of a data set may be many
    mixed = sum(layers * sum(mixing(looked_at(window), heads, size).values()) for window, layers in of_window.items())
    weights += 2 * tokens * width * _routed(text)
    return RowCost(text.num_hidden_layers * weights + 2 * tokens * width * text.vocab_size, mixed)


def _inner(text: Any) -> tuple[int, int]:
    """Width of a feed-forward layer, and how many of them a token goes through."""
    experts = getattr(text, "num_experts_per_tok", None) or 1
    return (experts > 1 and getattr(text, "moe_intermediate_size", None)) or text.intermediate_size, experts


def _routed(text: Any) -> int:
    """Experts that a mixture's router chooses from, 0 where there is none."""
    return getattr(text, "num_local_experts", None) or getattr(text, "num_experts", None) or 0


def windows(config: PretrainedConfig) -> Iterator[int | None]:
    """The window of each layer, None where it looks at everything before."""
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None) or ["sliding_attention"] * text.num_hidden_layers
    return (window if kind == "sliding_attention" else None for kind in kinds)


def half_from(config: PretrainedConfig) -> int | None:
    """Tokens from which mixing is half of a forward pass, with the pairs that causality and windows leave; None where
    windows keep it below for ever."""
    low, high = 1, 1 << 24
    if not _is_half(config, high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _is_half(config, middle) else (middle + 1, high)
    return low


def _is_half(config: PretrainedConfig, tokens: int) -> bool:
    cost = row_cost(config, tokens, lambda window: pairs(tokens, causal=True, window=window))
    return 2 * cost.mixing >= cost.flops
