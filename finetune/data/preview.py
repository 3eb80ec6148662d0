"""Rendered examples with their trained tokens coloured: `finetune data preview`."""

from __future__ import annotations

from rich.text import Text

from finetune.data.encode import IGNORED
from finetune.data.load import LoadedData

TRAINED, CONTEXT = "bold green", "dim"


def preview(data: LoadedData, rows: int) -> list[tuple[str, Text]]:
    """The first `rows` training rows as (where it came from, tokens with the trained ones coloured)."""
    split = data.train
    shown = zip(split.examples[:rows], split.rows[:rows], strict=True)
    return [(_title(example.where, row), _colour(data, row)) for example, row in shown]


def _title(where: str, row) -> str:
    cut = f", cut from {row.length:,}" if row.length > len(row.input_ids) else ""
    return f"{where}: {len(row.input_ids):,} tokens{cut}, {row.trained:,} trained"


def _colour(data: LoadedData, row) -> Text:
    text = Text()
    run: list[int] = []
    kind = None
    for token, label in [*zip(row.input_ids, row.labels, strict=True), (None, None)]:
        now = label != IGNORED if token is not None else None
        if run and now != kind:
            # A run is decoded at once: one token may be half a character.
            text.append(data.tokenizer.decode(run), style=TRAINED if kind else CONTEXT)
            run = []
        kind = now
        if token is not None:
            run.append(token)
    return text
