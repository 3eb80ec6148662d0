"""The rows of .jsonl files by blocks of lines: any block can be read without those before it."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate, islice
from pathlib import Path
from typing import TypeVar

from finetune.config import DataSource
from finetune.data.json_files import jsonl_error
from finetune.data.lines import STREAMED, BadLine, Ends, GoodLine, read_lines
from finetune.data.rows import Row
from finetune.errors import ConfigError, DataError

T = TypeVar("T")

BLOCK = 32
"""Lines of a block: few enough that a window has blocks from everywhere in the file, and so many that the places of
blocks, eight bytes each, are next to nothing."""


class Blocks:
    """Blocks of `size` lines of one file or several, numbered through; of each only its place is held.

    Finding them reads every file once. `count` is that of all lines that are not blank; `first` has each file's first
    block, and then the number of blocks. Raises ConfigError for what is no .jsonl file that can be read, DataError for
    one without rows.
    """

    def __init__(self, sources: list[DataSource]) -> None:
        self.size = BLOCK
        self.names = [source.path for source in sources]
        for source in sources:
            _require_lines(source)
        self._paths = [Path(name).expanduser() for name in self.names]
        self._states = [_readable(_state, path, name) for path, name in zip(self._paths, self.names, strict=True)]
        found = [_readable(_places, path, name) for path, name in zip(self._paths, self.names, strict=True)]
        for (places, rows), name in zip(found, self.names, strict=True):
            if not rows:
                what = "holds no rows" if places else "the file is empty"
                raise DataError(f"{name}: {what}", "write the file again or name another")
        self._places = [places for places, _ in found]
        self.count = sum(rows for _, rows in found)
        self.first = list(accumulate(map(len, self._places), initial=0))

    def __len__(self) -> int:
        return self.first[-1]

    def source(self, number: int) -> int:
        """Which of the files a block is of."""
        return bisect_right(self.first, number) - 1

    def rows(self, number: int) -> list[Row]:
        """The rows of a block; blank lines are skipped. Raises DataError naming every faulty line, and where the file
        cannot be read any more or is not what it was."""
        source = self.source(number)
        name, at = self.names[source], number - self.first[source]
        try:
            found = self._lines(source, at)
        except OSError as error:
            raise DataError(
                f"{name}: cannot be read any more ({error.strerror or error})", "see to the disk, or put the file back"
            ) from None
        if bad := {one.line: one.detail for one in found if isinstance(one, BadLine)}:
            raise jsonl_error(name, bad)
        return [Row(one.value, f"{name} line {one.line}", one.line - 1, name) for one in found]

    def _lines(self, source: int, at: int) -> list[GoodLine | BadLine]:
        """The lines of a file's block. Raises OSError, and DataError where the file is no longer what it was."""
        if _state(self._paths[source]) != self._states[source]:
            raise DataError(f"{self.names[source]}: the file was changed while it is read", "put it back as it was")
        with self._paths[source].open("rb") as file:
            file.seek(self._places[source][at])
            return list(read_lines(islice(file, self.size), Ends(), at * self.size + 1))


def _require_lines(source: DataSource) -> None:
    path, name = Path(source.path).expanduser(), source.path
    if path.is_file() and path.suffix.lower() in STREAMED and not source.split:
        return
    if path.suffix.lower() in STREAMED and not path.exists():
        raise ConfigError(
            f"{name}: no such file", f"check data.train; paths start at the working directory, {Path.cwd()}"
        )
    what = "is a directory" if path.is_dir() else "is not one" if path.exists() else "is no file here"
    raise ConfigError(
        f"data.streaming=true reads files of type .jsonl, and {name} {what}",
        "write the rows to a .jsonl file, or set data.streaming=false",
    )


def _readable(look: Callable[[Path], T], path: Path, name: str) -> T:
    """What `look` finds in a file. Raises ConfigError where it cannot be read."""
    try:
        return look(path)
    except OSError as error:
        raise ConfigError(
            f"{name}: cannot be read ({error.strerror or error})", "check the path and its permissions"
        ) from None


def _state(path: Path) -> tuple[int, int]:
    """What tells that a file was changed."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _places(path: Path) -> tuple[array, int]:
    """Where each block of a file begins, in bytes, and the number of lines that are not blank."""
    places, at, rows = array("q"), 0, 0
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if number % BLOCK == 0:
                places.append(at)
            at += len(line)
            rows += not line.isspace()
    return places, rows
