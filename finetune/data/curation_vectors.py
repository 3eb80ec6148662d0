"""Vectors of a curation: of its rows, written to disk block by block; of held-out and of labelled rows, in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from finetune.config import DataSource
from finetune.data.curation_state import Vectors
from finetune.data.curation_steps import Reference
from finetune.data.faults import RowFault, described
from finetune.data.json_files import decode, object_of
from finetune.data.rows import read_rows
from finetune.data.stream import Stream
from finetune.data.vectors import blocks, encode, text_of
from finetune.embeddings import TextEncoder
from finetune.errors import DataError

LABEL = "good"
"""The key of a labelled row that says whether it is: true or false."""


def write_vectors(
    stream: Stream,
    flagged: set[int],
    blank: set[int],
    count: int,
    encoder: TextEncoder,
    to: Vectors,
    progress: Callable[[float], None],
) -> None:
    """Encodes the `count` rows that are not `flagged`, from where it was left. Blocks are the same however often it is
    left, and so are the vectors: those of a text differ in the last bits with the texts beside it."""
    raw = (raw for row, _, raw in stream.rows(blank) if row not in flagged)
    for block in blocks(text_of(object_of(decode(line.rstrip(b"\r\n")))) for line in islice(raw, to.done, None)):
        to.append(encoder.encode(block).astype(np.float16), count)
        progress(to.done / count)


def held_out(sources: list[DataSource], encoder: TextEncoder, seed: int) -> Reference:
    """The rows that must not leak, each with its place. Raises DataError where none can be read as text."""
    found = list(_texts(sources, seed))
    if not found:
        raise DataError("data.eval holds no row that can be read as text", "see `finetune data check`")
    names, texts = zip(*found, strict=True)
    return Reference(encode(list(texts), encoder), list(names), np.empty(0, bool))


def labelled(path: str, encoder: TextEncoder, seed: int) -> Reference:
    """Rows with their labels. Raises DataError naming the first row without one."""
    texts, names, good = [], [], []
    for row in read_rows([DataSource(path=path)], role="eval", seed=seed):
        label = row.value.pop(LABEL, None)
        if not isinstance(label, bool):
            found = f"has no {LABEL}" if label is None else f"{LABEL} is {described(label)}"
            raise DataError(f"{row.where}: {found}", f'each labelled row has "{LABEL}": true or false')
        try:
            texts.append(text_of(row.value))
        except RowFault as fault:
            raise DataError(f"{row.where}: {fault.what}", fault.hint) from None
        names.append(row.where)
        good.append(label)
    return Reference(encode(texts, encoder), names, np.array(good))


def _texts(sources: list[DataSource], seed: int) -> Iterator[tuple[str, str]]:
    for row in read_rows(sources, role="eval", seed=seed):
        try:
            yield row.where, text_of(row.value)
        except RowFault:
            continue
