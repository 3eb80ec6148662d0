"""Held-out loss: the mean negative log-likelihood of a trained token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from finetune.processes import ALONE, Processes
from finetune.spec.linear_loss import linear_loss, plain_logits
from finetune.spec.loss import IGNORED
from finetune.training.halves import OnSplit, in_halves

if TYPE_CHECKING:
    from finetune.data import Encoded
    from finetune.spec import RunSpec

Collate = Callable[[Sequence[dict]], dict[str, torch.Tensor]]


def evaluate_model(
    spec: RunSpec,
    model: torch.nn.Module,
    rows: Sequence[Encoded],
    collate: Collate,
    on_split: OnSplit | None = None,
    processes: Processes = ALONE,
) -> float:
    """`held_out_loss` as a run computes it: in no larger batches than it trains on, so that it takes no more memory."""
    return held_out_loss(
        model,
        rows,
        collate=collate,
        max_tokens=_max_tokens(spec),
        autocast=spec.autocast,
        on_split=on_split,
        processes=processes,
    )


def largest_batch(spec: RunSpec, rows: Sequence[Encoded]) -> list[Encoded]:
    """The rows of `evaluate_model`'s batch of most tokens, padding included; of equal ones that of longer rows."""
    return max(_groups(rows, _max_tokens(spec)), key=lambda group: (len(group) * _length(group[0]), _length(group[0])))


def _max_tokens(spec: RunSpec) -> int:
    return spec.config.training.micro_batch_size * spec.config.data.max_length


@torch.no_grad()
def held_out_loss(
    model: torch.nn.Module,
    rows: Sequence[Encoded],
    *,
    collate: Collate,
    max_tokens: int,
    autocast: torch.dtype | None,
    on_split: OnSplit | None = None,
    processes: Processes = ALONE,
) -> float:
    """Sum of the negative log-likelihoods of all trained tokens over their number, in nats.

    A batch holds at most `max_tokens` tokens, padding included, or one row; its logits are never held as a whole. One
    that does not fit is split, where `on_split` is there to hear of it. Several processes share the batches out.
    """
    was_training = model.training
    model.eval()
    _ensure_fused_head(model)
    device = next(model.parameters()).device
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    on_processor = device.type == "cpu" and plain_logits(base.config)
    context = torch.autocast(device.type, autocast) if autocast else nullcontext()

    def scored(group: Sequence[Encoded]) -> tuple[torch.Tensor, int]:
        batch = collate([asdict(row) for row in group])
        inputs = {key: batch[key].to(device) for key in ("input_ids", "labels", "attention_mask")}
        count = int((batch["labels"][:, 1:] != IGNORED).sum())
        with context:
            if on_processor:
                return linear_loss(base, inputs, 1).loss.double(), count
            output = model(**inputs, fused_lm_head=True, use_cache=False)
        return -output.log_probs.double().sum(), count

    own = [group for place, group in enumerate(_groups(rows, max_tokens)) if processes.owns(place)]
    found = [part for group in own for part in in_halves(scored, group, on_split)]
    model.train(was_training)
    total = sum((loss for loss, _ in found), start=torch.zeros((), dtype=torch.float64, device=device))
    every = processes.gather((float(total), sum(count for _, count in found)))
    return sum(loss for loss, _ in every) / max(sum(count for _, count in every), 1)


def _groups(rows: Sequence[Encoded], max_tokens: int) -> Iterator[list[Encoded]]:
    """Rows of like length share a batch, so that little is padding; the longest of a batch comes first."""
    longest_first = sorted(rows, key=_length, reverse=True)
    start = 0
    while start < len(rows):
        size = max(1, max_tokens // _length(longest_first[start]))
        yield longest_first[start : start + size]
        start += size


def _length(row: Encoded) -> int:
    return len(row.input_ids)


def _ensure_fused_head(model: torch.nn.Module) -> None:
    """Gives the model TRL's head, which scores tokens in tiles; a model inside TRL's trainer has it already."""
    from trl.trainer.utils import add_fused_lm_head

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "forward" not in vars(base):
        add_fused_lm_head(base)
