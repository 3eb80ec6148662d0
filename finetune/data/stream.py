"""The sources of a curation as one stream of lines: a .jsonl file as it stands; others written as such a file first."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from finetune.config import DataSource
from finetune.data.file_limits import next_line, require_file
from finetune.data.lines import STREAMED
from finetune.data.rows import read_rows
from finetune.errors import ConfigError


@dataclass(frozen=True)
class Part:
    """A source of the stream: its name, bytes and SHA-256 (None for a hub data set), and the lines before it.
    `by_line`: whether it is itself read by lines."""

    name: str
    bytes: int | None
    sha256: str | None
    before: int = 0
    by_line: bool = True


@dataclass(frozen=True)
class Stream:
    """A .jsonl file and the sources that it is made of, in order."""

    path: Path
    parts: list[Part]

    def rows(self, blank: set[int]) -> Iterator[tuple[int, int, bytes]]:
        """Every row: its number from 0 and its line from 1, as `data check` counts, and the line as it stands, but for
        a byte-order mark. `blank` are the blank lines that hold the place of a row."""
        row = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                raw = line.removeprefix(codecs.BOM_UTF8)
                if raw.strip() or number in blank:
                    yield row, number, raw
                    row += 1

    def place(self, line: int) -> dict[str, Any]:
        """Where a line comes from: `file`, where there are several, and its `line` there."""
        part = next(part for part in reversed(self.parts) if line > part.before)
        named = {"file": part.name} if len(self.parts) > 1 else {}
        return {**named, "line": line - part.before} if part.by_line else named


def identify(source: DataSource) -> Part:
    """The source as it is now. Raises ConfigError for a file that cannot be read."""
    path = Path(source.path).expanduser()
    if not path.is_file():
        return Part(source.path, None, None, by_line=False)  # a hub id, or whatever `read_rows` says of it
    return Part(source.path, path.stat().st_size, sha256_of(path), by_line=path.suffix.lower() in STREAMED)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file. Raises ConfigError where it cannot be read."""
    require_file(path, str(path))
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})", "check the path") from None


def open_stream(sources: list[DataSource], parts: list[Part], joined: Path, *, seed: int) -> Stream:
    """The stream of these sources. One .jsonl file is read where it is; anything else is written to `joined`, whole or
    not at all. Raises ConfigError and DataError as `read_rows`."""
    if len(parts) == 1 and parts[0].by_line:
        return Stream(Path(parts[0].name).expanduser(), parts)
    partial = joined.with_suffix(".partial")
    placed, before = [], 0
    with partial.open("wb") as file:
        for source, part in zip(sources, parts, strict=True):
            placed.append(Part(part.name, part.bytes, part.sha256, before, part.by_line))
            before += _copy(part, file) if part.by_line else _convert(source, file, seed)
    partial.replace(joined)
    return Stream(joined, placed)


def _copy(part: Part, to: BinaryIO) -> int:
    """Copies a .jsonl file, and ends its last line; the number of its lines."""
    lines = 0
    with Path(part.name).expanduser().open("rb") as file:
        for line in iter(lambda: next_line(file, part.name), b""):
            to.write(line if line.endswith(b"\n") else line + b"\n")
            lines += 1
    return lines


def _convert(source: DataSource, to: BinaryIO, seed: int) -> int:
    rows = read_rows([source], role="train", seed=seed)
    for row in rows:
        to.write(json.dumps(row.value, ensure_ascii=False, default=str).encode() + b"\n")
    return len(rows)
