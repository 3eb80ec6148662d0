"""Rows become a batch: padded with an attention mask, or packed with positions that start again at each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune.spec.loss import IGNORED, NUMBER


@dataclass(frozen=True)
class Collator:
    """Builds `input_ids` and `labels` (batch, length), what tells rows apart, and what each of the batch holds.

    `rows` and `tokens` (batch) count the latter: how many rows a pack has, and its tokens without padding. `number`
    (batch) is where each stands in the data set, for rows that say so.

    Plain rows are padded on the right and get an `attention_mask`. Packed rows (those with `seq_lengths`) get
    `position_ids` and no mask: transformers then builds block masks from the positions, and does so only then
    (transformers#46634). Padding behind a pack is one more block of its own.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """One batch of `rows`, each with `input_ids`, `labels` and perhaps `seq_lengths`."""
        longest = max(len(row["input_ids"]) for row in rows)
        batch = {
            "input_ids": _pad([row["input_ids"] for row in rows], longest, self.pad_token_id),
            "labels": _pad([row["labels"] for row in rows], longest, IGNORED),
            "tokens": torch.tensor([len(row["input_ids"]) for row in rows]),
            "rows": torch.tensor([len(row.get("seq_lengths", [1])) for row in rows]),
        }
        if NUMBER in rows[0]:
            batch[NUMBER] = torch.tensor([row[NUMBER] for row in rows])
        if "seq_lengths" in rows[0]:
            batch["position_ids"] = torch.stack([_positions(row["seq_lengths"], longest) for row in rows])
        else:
            batch["attention_mask"] = _pad([[1] * len(row["input_ids"]) for row in rows], longest, 0)
        return batch


def _pad(rows: list[list[int]], length: int, value: int) -> torch.Tensor:
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])


def _positions(lengths: list[int], total: int) -> torch.Tensor:
    blocks = [*lengths, total - sum(lengths)]
    return torch.cat([torch.arange(block) for block in blocks])
