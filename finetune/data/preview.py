"""Rendered examples with their trained tokens coloured: `finetune data preview`, `finetune data check --show-mask`."""

from __future__ import annotations

from itertools import groupby

from rich.text import Text
from transformers import PreTrainedTokenizerBase

from finetune.data.encode import IGNORED, Encoded
from finetune.data.splits import Split

TRAINED, CONTEXT = "bold green", "dim"


def preview(tokenizer: PreTrainedTokenizerBase, split: Split, rows: int) -> list[tuple[str, Text]]:
    """The first rows of a split as (where it came from, tokens with the trained ones coloured)."""
    first = zip(split.examples[:rows], split.rows[:rows], strict=True)
    return [shown(tokenizer, example.where, row) for example, row in first]


def shown(tokenizer: PreTrainedTokenizerBase, where: str, row: Encoded) -> tuple[str, Text]:
    """A row as `preview` shows it."""
    cut = f", cut from {row.length:,}" if row.length > len(row.input_ids) else ""
    title = f"{where}: {len(row.input_ids):,} tokens{cut}, {row.trained:,} trained"
    return title, _coloured(tokenizer, row)


def _coloured(tokenizer: PreTrainedTokenizerBase, row: Encoded) -> Text:
    text, end, before = Text(), 0, ""
    for trained, run in groupby(row.labels, key=lambda label: label != IGNORED):
        end += len(list(run))
        # Decoded from the start each time: alone, a token may be half a character, or lose the space before it.
        whole = tokenizer.decode(row.input_ids[:end], clean_up_tokenization_spaces=False)
        text.append(whole[len(before) :], style=TRAINED if trained else CONTEXT)
        before = whole
    return text
