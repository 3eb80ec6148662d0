"""Rows become a batch: padded with an attention mask, or packed with positions that start again at each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune.spec.loss import IGNORED, NUMBER
from finetune.spec.varlen import ROW_LENGTHS


@dataclass(frozen=True)
class Collator:
    """Builds `input_ids` and `labels` (batch, length), what tells rows apart, and what each of the batch holds.

    `rows` and `tokens` (batch) count the latter: how many rows a pack has, and its tokens without padding. `number`
    (batch) is where each stands in the data set, for rows that say so.

    Plain rows are padded on the right and get an `attention_mask`. Packed rows (those with `seq_lengths`) get
    `position_ids` and no mask: transformers then builds block masks from the positions, and does so only then
    (transformers#46634). Padding behind a pack is one more block of its own. `by_length` adds the lengths of all these
    blocks, for attention by variable length.
    """

    pad_token_id: int
    by_length: bool = False

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
            blocks = [_blocks(row["seq_lengths"], longest) for row in rows]
            batch["position_ids"] = torch.stack([_positions(lengths) for lengths in blocks])
            if self.by_length:
                batch[ROW_LENGTHS] = _pad(blocks, max(map(len, blocks)), 0)
        else:
            batch["attention_mask"] = _pad([[1] * len(row["input_ids"]) for row in rows], longest, 0)
        return batch


def _pad(rows: list[list[int]], length: int, value: int) -> torch.Tensor:
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])


def _blocks(lengths: list[int], total: int) -> list[int]:
    """Lengths that fill a pack: those of its rows, and the padding behind them where there is some."""
    left = total - sum(lengths)
    return [*lengths, left] if left else list(lengths)


def _positions(lengths: list[int]) -> torch.Tensor:
    return torch.cat([torch.arange(length) for length in lengths])
