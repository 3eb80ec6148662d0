"""Rows as vectors: one text a row, question and answer, through an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.faults import RowFault
from finetune.data.files import read_file
from finetune.data.lines import STREAMED, Ends, GoodLine, read_lines
from finetune.data.rules.view import texts_of
from finetune.embeddings import TextEncoder

TEXTS = 1024
"""Texts encoded at a time: enough that an encoder, which sorts them by length, pads little."""


@dataclass(frozen=True)
class RowTexts:
    """Rows that can be trained on: `rows` (n,) int64, numbers from 0 as `data check` counts; `texts`, one for each."""

    rows: np.ndarray
    texts: list[str]


def read_texts(path: Path, name: str) -> RowTexts:
    """The texts of a file's rows, held in memory; `name` stands for it in messages. Damaged lines and rows that cannot
    be trained on are left out. Raises ConfigError and DataError as `files.read_file`."""
    if path.suffix.lower() not in STREAMED or not path.is_file():
        return _numbered(enumerate(value for _, value in read_file(path, name)))
    ends = Ends()
    with path.open("rb") as file:
        lines = list(read_lines(file, ends))
    damaged = any(not isinstance(line, GoodLine) for line in lines)
    found = _numbered((line.line, line.value) for line in lines if isinstance(line, GoodLine))
    # A blank line holds the place of a row in a damaged file alone, as `data check` counts.
    before = 0 if damaged else np.searchsorted(np.array(ends.blank), found.rows)
    return RowTexts(found.rows - 1 - before, found.texts)


def text_of(value: dict[str, Any]) -> str:
    """Question and answer of a row as one text. Raises RowFault where the loader would refuse the row."""
    texts = texts_of(value)
    return f"{texts.question}\n{texts.answer}".strip()


def encode(texts: list[str], encoder: TextEncoder, progress: Callable[[float], None] | None = None) -> np.ndarray:
    """Vectors of texts, (n, dimensions) float32; `progress` is called with the share that is done."""
    found = []
    for number, block in enumerate(blocks(texts), start=1):
        found.append(encoder.encode(block))
        if progress:
            progress(min(1.0, number * TEXTS / len(texts)))
    return np.concatenate(found) if found else np.empty((0, 0), np.float32)


def blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in lists of TEXTS, the last one shorter."""
    source = iter(texts)
    while block := list(islice(source, TEXTS)):
        yield block


def _numbered(values: Iterable[tuple[int, dict[str, Any]]]) -> RowTexts:
    rows, texts = [], []
    for row, value in values:
        try:
            texts.append(text_of(value))
        except RowFault:
            continue
        rows.append(row)
    return RowTexts(np.array(rows, np.int64), texts)
