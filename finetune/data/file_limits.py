"""How much of a file from a stranger is taken in: regular files alone, and no more than a machine can hold."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from finetune.errors import ConfigError, DataError
from finetune.regular_file import require_regular

LONGEST_LINE = 2**26
"""Bytes of a line of .jsonl: ten million words, more than any model reads at once."""

WHOLE = 2**30
"""Bytes, decompressed, of a file that is read whole: as rows in memory it takes several times that."""

CELLS = 2**25
"""Rows times columns of such a file: Python takes a hundred bytes for an empty one, and a format may store none."""

COLUMNS = 1000
"""Columns of a file: rows to train on have a dozen."""

BY_LINES = "write it as .jsonl, which is read by lines, or as several files"


def require_file(path: Path, name: str) -> None:
    """Raises ConfigError for what is no regular file, such as a pipe, which may never end or never begin."""
    try:
        require_regular(path)
    except OSError as error:
        raise ConfigError(
            f"{name}: cannot be read ({error.strerror or error})", "check the path and its permissions"
        ) from None


def require_whole(path: Path, name: str) -> None:
    """Raises DataError for a file too large to be read whole."""
    size = path.stat().st_size
    if size > WHOLE:
        raise DataError(f"{name}: {size:,} bytes, of which {WHOLE:,} at most are read whole", BY_LINES)


def require_table(name: str, rows: int, columns: int) -> None:
    """Raises DataError for a table of too many columns, or too many cells."""
    if columns > COLUMNS:
        raise DataError(f"{name}: {columns:,} columns, more than {COLUMNS:,}", "keep the columns that are trained on")
    if rows * columns > CELLS:
        raise DataError(f"{name}: more than {CELLS:,} cells in {columns:,} columns", BY_LINES)


def next_line(file: BinaryIO, name: str) -> bytes:
    """The next line of a file, empty at its end. Raises DataError for one too long to be a row."""
    line = file.readline(LONGEST_LINE + 1)
    if len(line) > LONGEST_LINE:
        start = file.tell() - len(line)
        raise DataError(
            f"{name}: the line at byte {start:,} is longer than {LONGEST_LINE:,} bytes", "each line holds one row"
        )
    return line
