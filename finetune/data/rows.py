"""Rows of `data.train` and `data.eval`: from files and the hub, each with its place, taken by weight."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune.config import DataSource
from finetune.data.faults import count
from finetune.data.files import READERS, read_file
from finetune.data.hub import read_hub
from finetune.errors import ConfigError

Role = Literal["train", "eval"]

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
FILE_SUFFIXES = (*READERS, ".txt", ".tsv", ".gz", ".zip", ".zst")
"""What a file's name ends with; without this a missing file would be looked for on the hub."""


@dataclass(frozen=True)
class Row:
    """One row as it was read.

    `where` names it to people, such as `train.jsonl line 12`; `index` counts from zero within its `source`, a file or
    a split of a hub data set.
    """

    value: dict[str, Any]
    where: str
    index: int
    source: str = ""


def read_rows(sources: str | list[DataSource], *, role: Role, seed: int) -> list[Row]:
    """The rows of one source, or of several in the order given.

    A weight of 2.5 takes every row twice, then a random half of them in the order of the source; equal seeds
    take equal rows. Raises ConfigError where a source cannot be had, DataError where its content is faulty.
    """
    if isinstance(sources, str):
        sources = [DataSource(path=sources)]
    if not sources:
        raise ConfigError(f"data.{role}: the list of sources is empty", "name a file or a hub id")
    generator = random.Random(seed)
    return [row for source in sources for row in _weighted(_read(source, role), source, generator)]


def _read(source: DataSource, role: Role) -> list[Row]:
    path = Path(source.path).expanduser()
    name = source.path
    if path.exists():
        if source.split:
            raise ConfigError(
                f"{name}: is a file, which has no split {source.split!r}", "leave split out, or name a hub id"
            )
        placed = read_file(path, name)
    elif source.path.startswith((".", "/", "~")) or path.suffix.lower() in FILE_SUFFIXES or not HUB_ID.fullmatch(name):
        raise ConfigError(
            f"{name}: no such file", f"check data.{role}; paths start at the working directory, {Path.cwd()}"
        )
    else:
        split, placed = read_hub(name, source.split, role)
        name = f"{name}[{split}]"
    return [Row(value, f"{name} {place}", index, name) for index, (place, value) in enumerate(placed)]


def _weighted(rows: list[Row], source: DataSource, generator: random.Random) -> list[Row]:
    copies = int(source.weight)
    chosen = generator.sample(range(len(rows)), round((source.weight - copies) * len(rows)))
    taken = rows * copies + [rows[index] for index in sorted(chosen)]
    if not taken:
        raise ConfigError(
            f"{source.path}: weight {source.weight} takes none of its {count(rows, 'row')}", "raise the weight"
        )
    return taken
