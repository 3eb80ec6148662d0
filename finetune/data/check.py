"""`finetune data check`: defects of a file that are found without a model, by row and by rule.

A .jsonl file is streamed over all cores. Memory grows by what is found, and by 0.3 KB a row where near copies are
sought, 28 bytes where exact ones alone are. Other types of file are read whole, as for training.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import Pool
from pathlib import Path
from typing import Any

from finetune.config import DataConfig, DataSource
from finetune.data.chunks import Asked, Checked, check_chunk, check_values, chunks_of
from finetune.data.files import read_file
from finetune.data.findings import CheckResult
from finetune.data.lines import write_bad_lines
from finetune.data.rows import Role, read_rows
from finetune.data.rules.registry import MAX_LENGTH, chosen
from finetune.data.tally import Tally
from finetune.errors import ConfigError, DataError
from finetune.spec.device import usable_cores

STREAMED = (".jsonl", ".ndjson")

ROWS = 4096
"""Rows checked at a time where a file is not read by lines."""


def check_file(
    path: Path | str,
    *,
    rules: Iterable[str] | None = None,
    without: Iterable[str] = (),
    max_length: int = MAX_LENGTH,
    skip_bad: Path | None = None,
    processes: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> CheckResult:
    """Checks every row of a file.

    `rules` and `without` choose among RULES and ACROSS by name; `max_length` is in tokens; `skip_bad` names a new file
    for bad lines; `processes` defaults to all cores; `progress` is called with the share that is done. Raises
    ConfigError where the file cannot be had or a rule is unknown, DataError where it holds no rows, or is of another
    type than .jsonl and cannot be read.
    """
    path, name = Path(path).expanduser(), str(path)
    asked = Asked(chosen(rules, without), max_length)
    if not path.exists():
        raise ConfigError(f"{name}: no such file", "check the path")
    if path.is_dir() or path.suffix.lower() not in STREAMED:
        return check_rows([value for _, value in read_file(path, name)], name, asked)
    found = Tally(asked)
    for checked, share in _streamed(path, name, asked, processes or usable_cores()):
        found.add(checked)
        if progress:
            progress(share)
    result = found.result(name)
    if not result.rows:
        raise DataError(f"{name}: holds no rows", "write the file again or name another")
    if skip_bad is not None:
        write_bad_lines(result.bad_lines, Path(skip_bad).expanduser())
    return result


def check_sources(config: DataConfig, *, seed: int, **options: Any) -> list[CheckResult]:
    """Checks every source that a configuration trains or evaluates on, each once: files as `check_file` with these
    options, hub data sets row by row. Rows may be as long as `data.max_length`."""
    sources: dict[str, tuple[DataSource, Role]] = {}
    for role in ("train", "eval"):
        named = getattr(config, role) or []
        for source in [DataSource(path=named)] if isinstance(named, str) else named:
            sources.setdefault(f"{source.path}[{source.split}]", (source, role))
    found = []
    for source, role in sources.values():
        if Path(source.path).expanduser().exists():
            found.append(check_file(source.path, max_length=config.max_length, **options))
        else:
            rows = read_rows([source.model_copy(update={"weight": 1.0})], role=role, seed=seed)
            asked = Asked(chosen(options.get("rules"), options.get("without", ())), config.max_length)
            found.append(check_rows([row.value for row in rows], source.path, asked))
    return found


def check_rows(values: list[dict[str, Any]], name: str, asked: Asked) -> CheckResult:
    """Checks rows that have been read already, such as those of a hub data set."""
    found = Tally(asked)
    for start in range(0, len(values), ROWS):
        found.add(check_values(list(enumerate(values[start : start + ROWS], start=1)), asked))
    return found.result(name, lines=False)


def _streamed(path: Path, name: str, asked: Asked, processes: int) -> Iterator[tuple[Checked, float]]:
    """The chunks of a file as they are checked, in order, and the share that is done."""
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read ({error.strerror or error})", "check its permissions") from None
    if empty:
        raise DataError(f"{name}: the file is empty", "write the file again or name another")
    chunks = chunks_of(path, asked)
    if processes == 1 or len(chunks) < 2:
        yield from _counted(map(check_chunk, chunks), len(chunks))
        return
    # What the process has imported by now is left out of every later search for garbage: that halves the time.
    with Pool(min(processes, len(chunks)), initializer=gc.freeze) as pool:
        yield from _counted(pool.imap(check_chunk, chunks), len(chunks))


def _counted(checked: Iterable[Checked], total: int) -> Iterator[tuple[Checked, float]]:
    for number, one in enumerate(checked, start=1):
        yield one, number / total
