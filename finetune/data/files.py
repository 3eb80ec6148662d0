"""Rows from files: which types are known, and CSV. Text is parsed by the standard library."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from finetune.data.faults import count, listed
from finetune.data.file_limits import require_file, require_table
from finetune.data.json_files import Placed, read_json, read_jsonl, read_text
from finetune.data.parquet_files import read_parquet
from finetune.errors import ConfigError, DataError


def read_file(path: Path, name: str) -> list[Placed]:
    """The rows of one file, by its suffix (see READERS); `name` stands for it in messages.

    Blank lines, a UTF-8 byte-order mark and CRLF line ends are accepted.
    Raises ConfigError where there is no such file to read, DataError where its content is faulty.
    """
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir() if entry.suffix.lower() in READERS)[:3]
        raise ConfigError(
            f"{name}: is a directory", "name one file" + (f", such as {', '.join(inside)}" if inside else "")
        )
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{name}: unknown file type {path.suffix!r}", f"known types: {', '.join(READERS)}")
    require_file(path, name)
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
        rows = [] if empty else reader(path, name)
    except OSError as error:
        raise ConfigError(
            f"{name}: cannot be read ({error.strerror or error})", "check the path and its permissions"
        ) from None
    if not rows:
        raise DataError(
            f"{name}: {'the file is empty' if empty else 'holds no rows'}", "write the file again or name another"
        )
    return rows


def _read_csv(path: Path, name: str) -> list[Placed]:
    hint = "the first line names the columns; a field that holds a comma, a quote or a line break is quoted"
    csv.field_size_limit(2**31 - 1)  # the module's own 128 KiB is shorter than a long document
    reader = csv.reader(io.StringIO(read_text(path, name), newline=""), strict=True)
    lines: list[tuple[int, list[str]]] = []
    start, cells = 1, 0
    try:
        for fields in reader:
            require_table(name, 1, len(fields))
            cells += len(fields)
            require_table(name, cells, 1)
            if any(map(str.strip, fields)):  # sheets are saved with empty lines, and lines of empty fields, at the end
                lines.append((start, fields))
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{name}: the row that starts at line {start} cannot be read: {error}", hint) from None
    if not lines:
        return []
    (_, header), *lines = lines
    if "" in header or len(set(header)) < len(header):
        raise DataError(f"{name}: the first line is no header, a name in it is empty or stands twice: {header}", hint)
    ragged = [
        f"row {row} (line {line}): {count(fields, 'field')}, the header has {len(header)}"
        for row, (line, fields) in enumerate(lines, start=1)
        if len(fields) != len(header)
    ]
    if ragged:
        raise DataError(listed(f"{name}: {count(ragged, 'faulty row')}", ragged), hint)
    return [(f"row {row}", dict(zip(header, fields, strict=True))) for row, (_, fields) in enumerate(lines, start=1)]


READERS = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": _read_csv,
    ".parquet": read_parquet,
}
"""Known file types and what reads them."""
