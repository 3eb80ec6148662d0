"""Held-out loss: the mean negative log-likelihood of a trained token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from finetune.data import Encoded
    from finetune.spec import RunSpec

IGNORED = -100
"""Label of a token that is read but not trained: cross entropy's `ignore_index`."""

Collate = Callable[[Sequence[dict]], dict[str, torch.Tensor]]


def evaluate_model(spec: RunSpec, model: torch.nn.Module, rows: Sequence[Encoded], collate: Collate) -> float:
    """`held_out_loss` as a run computes it: in no larger batches than it trains on, so that it takes no more memory."""
    max_tokens = spec.config.training.micro_batch_size * spec.config.data.max_length
    return held_out_loss(model, rows, collate=collate, max_tokens=max_tokens, autocast=spec.autocast)


@torch.no_grad()
def held_out_loss(
    model: torch.nn.Module,
    rows: Sequence[Encoded],
    *,
    collate: Collate,
    max_tokens: int,
    autocast: torch.dtype | None,
) -> float:
    """Sum of the negative log-likelihoods of all trained tokens over their number, in nats.

    A batch holds at most `max_tokens` tokens, padding included, or one row; its logits are never held as a whole.
    """
    was_training = model.training
    model.eval()
    _ensure_fused_head(model)
    device = next(model.parameters()).device
    context = torch.autocast(device.type, autocast) if autocast else nullcontext()
    total = torch.zeros((), dtype=torch.float64, device=device)
    count = 0
    for batch in _batches(rows, collate, max_tokens):
        inputs = {key: batch[key].to(device) for key in ("input_ids", "labels", "attention_mask")}
        with context:
            output = model(**inputs, fused_lm_head=True, use_cache=False)
        total -= output.log_probs.double().sum()
        count += int((batch["labels"][:, 1:] != IGNORED).sum())
    model.train(was_training)
    return float(total) / max(count, 1)


def _batches(rows: Sequence[Encoded], collate: Collate, max_tokens: int) -> Iterator[dict[str, torch.Tensor]]:
    """Rows of like length share a batch, so that little is padding."""
    longest_first = sorted(rows, key=lambda row: -len(row.input_ids))
    start = 0
    while start < len(rows):
        size = max(1, max_tokens // len(longest_first[start].input_ids))
        yield collate([asdict(row) for row in longest_first[start : start + size]])
        start += size


def _ensure_fused_head(model: torch.nn.Module) -> None:
    """Gives the model TRL's head, which scores tokens in tiles; a model inside TRL's trainer has it already."""
    from trl.trainer.utils import add_fused_lm_head

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "forward" not in vars(base):
        add_fused_lm_head(base)
