"""The loss of a step, one function for the trainer that takes it and the preflight that traces it."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

IGNORED = -100
"""Label of a token that is read but not trained: cross entropy's `ignore_index`."""

NUMBER = "number"
"""Column of a training data set: which of its rows (packs, pairs, prompts) one is. The model never sees it."""


def next_token_loss(
    logits: torch.Tensor, labels: torch.Tensor, count: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Negative log-likelihood per trained token.

    From whole `logits` (batch, tokens, vocabulary) and `labels` (batch, tokens). `count` divides the sum: the trained
    tokens of the whole effective batch; those of this one where None. The labels are moved instead of the logits, of
    which a shifted copy would take as much memory again.
    """
    shifted = functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    total = functional.cross_entropy(
        logits.float().flatten(0, 1), shifted.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    if count is None:
        count = (shifted != IGNORED).sum()
    return total / torch.as_tensor(count, device=total.device).clamp(min=1)


def fused_loss(output: Any, count: torch.Tensor | int | None = None) -> torch.Tensor:
    """The same from the output of TRL's fused head, whose log-probabilities are zero where there is no label."""
    if count is None:
        count = output.label_mask.sum()
    return -output.log_probs.sum() / torch.as_tensor(count, device=output.log_probs.device).clamp(min=1)
