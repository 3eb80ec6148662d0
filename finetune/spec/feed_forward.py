"""The feed-forward part of each layer a few tokens at a time, so that its wide activations are never there for a whole
long row: each piece is checkpointed by itself, and computed once more in its backward pass (Jamil et al. 2025,
arXiv:2506.13996).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from finetune.errors import ConfigError

PART = "mlp"
"""Name of the feed-forward part in a layer."""


def recomputing() -> AbstractContextManager[None]:
    """What a piece is recomputed in; a trace has another, since modes are left when a backward pass begins."""
    return nullcontext()


def chunk_feed_forward(model: PreTrainedModel, tokens: int) -> None:
    """Has every layer's feed-forward part take at most `tokens` tokens of each row at once.

    Raises ConfigError where layers have no such part, or one that mixes tokens, as a mixture of experts' router may.
    """
    parts = [getattr(m, PART, None) for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not parts or any(part is None or hasattr(part, "experts") for part in parts):
        raise ConfigError(
            f"training.feed_forward_chunk={tokens}: layers of {type(model).__name__} have no feed-forward part that "
            "takes tokens one by one",
            "set training.feed_forward_chunk=null",
        )
    for part in parts:
        part.forward = functools.partial(in_chunks, part.forward, tokens)


def in_chunks(forward: Callable[[torch.Tensor], torch.Tensor], tokens: int, hidden: torch.Tensor) -> torch.Tensor:
    """`forward` of hidden states (b, s, h), `tokens` of them at once."""
    if hidden.shape[1] <= tokens:
        return forward(hidden)
    pieces = hidden.split(tokens, dim=1)
    if torch.is_grad_enabled():
        pieces = [
            checkpoint(forward, piece, use_reentrant=False, context_fn=lambda: (nullcontext(), recomputing()))
            for piece in pieces
        ]
    else:
        pieces = [forward(piece) for piece in pieces]
    return torch.cat(pieces, dim=1)
