"""Rendered examples with their trained tokens coloured: `finetune data preview`."""

from __future__ import annotations

from itertools import groupby

from rich.text import Text
from transformers import PreTrainedTokenizerBase

from finetune.data.encode import IGNORED, Encoded
from finetune.data.load import LoadedData

TRAINED, CONTEXT = "bold green", "dim"


def preview(data: LoadedData, rows: int) -> list[tuple[str, Text]]:
    """The first `rows` training rows as (where it came from, tokens with the trained ones coloured)."""
    split = data.train
    shown = zip(split.examples[:rows], split.rows[:rows], strict=False)
    return [(_title(example.where, row), _coloured(data.tokenizer, row)) for example, row in shown]


def _title(where: str, row: Encoded) -> str:
    cut = f", cut from {row.length:,}" if row.length > len(row.input_ids) else ""
    return f"{where}: {len(row.input_ids):,} tokens{cut}, {row.trained:,} trained"


def _coloured(tokenizer: PreTrainedTokenizerBase, row: Encoded) -> Text:
    text, end, before = Text(), 0, ""
    for trained, run in groupby(row.labels, key=lambda label: label != IGNORED):
        end += len(list(run))
        # Decoded from the start each time: alone, a token may be half a character, or lose the space before it.
        whole = tokenizer.decode(row.input_ids[:end], clean_up_tokenization_spaces=False)
        text.append(whole[len(before) :], style=TRAINED if trained else CONTEXT)
        before = whole
    return text
