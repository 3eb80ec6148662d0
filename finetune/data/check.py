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

from finetune.config import DataSource, RunConfig
from finetune.cores import usable_cores
from finetune.data.chunks import Asked, Checked, check_chunk, check_values, chunks_of
from finetune.data.file_limits import require_file
from finetune.data.files import read_file
from finetune.data.findings import CheckResult
from finetune.data.lines import STREAMED, require_new, write_bad_lines
from finetune.data.rows import Role, read_rows
from finetune.data.rules.registry import MAX_LENGTH, chosen
from finetune.data.tally import Tally
from finetune.errors import ConfigError, DataError

ROWS = 4096
"""Rows checked at a time where a file is not read by lines."""


def check_file(
    path: Path | str,
    *,
    rules: Iterable[str] | None = None,
    without: Iterable[str] = (),
    max_length: int = MAX_LENGTH,
    method: str | None = None,
    skip_bad: Path | None = None,
    processes: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> CheckResult:
    """Checks every row of a file.

    `rules` and `without` choose among RULES and ACROSS by name; `max_length` is in tokens; `method` is what rows are
    meant for, where that is known; `skip_bad` names a new file for bad lines; `processes` defaults to all cores;
    `progress` is called with the share that is done. Raises ConfigError where the file cannot be had or a rule is
    unknown, DataError where it holds no rows, or is of another type than .jsonl and cannot be read.
    """
    path, name = Path(path).expanduser(), str(path)
    asked = Asked(chosen(rules, without), max_length, method)
    if not path.exists():
        raise ConfigError(f"{name}: no such file", "check the path")
    if not path.is_dir():
        require_file(path, name)
    _require_lines(skip_bad, [name])
    if path.is_dir() or not _streams(name):
        return check_rows([value for _, value in read_file(path, name)], name, asked)
    result = tally_of(path, name, asked, processes=processes, progress=progress).result(name)
    if not result.rows:
        raise DataError(f"{name}: holds no rows", "write the file again or name another")
    if skip_bad is not None:
        write_bad_lines({name: result.bad_lines}, Path(skip_bad).expanduser())
    return result


def tally_of(
    path: Path,
    name: str,
    asked: Asked,
    *,
    processes: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Tally:
    """What is found in a .jsonl file, streamed over all cores. Raises as `check_file`."""
    found = Tally(asked)
    for checked, share in _streamed(path, name, asked, processes or usable_cores()):
        found.add(checked)
        if progress:
            progress(share)
    return found


def check_sources(run: RunConfig, *, skip_bad: Path | None = None, **options: Any) -> list[CheckResult]:
    """Checks every source that a configuration trains or evaluates on, each once: files as `check_file` with these
    options, hub data sets row by row. Rows may be as long as `data.max_length`; bad lines of all files go to one."""
    config = run.data
    sources: dict[tuple[str, ...], tuple[DataSource, Role]] = {}
    for role in ("train", "eval"):
        named = getattr(config, role) or []
        for source in [DataSource(path=named)] if isinstance(named, str) else named:
            # Of a data set on the hub that names no split, each role takes another.
            key = () if Path(source.path).expanduser().exists() else (source.split or role,)
            sources.setdefault((source.path, *key), (source, role))
    _require_lines(skip_bad, [source.path for source, _ in sources.values()])
    found = [_check_source(source, role, run, options) for source, role in sources.values()]
    if skip_bad is not None:
        for result in found:
            if not _streams(result.name):
                result.notes.append("not read by lines: --skip-bad takes none of it")
        write_bad_lines({result.name: result.bad_lines for result in found}, Path(skip_bad).expanduser())
    return found


def _check_source(source: DataSource, role: Role, run: RunConfig, options: dict[str, Any]) -> CheckResult:
    max_length, method = run.data.max_length, run.training.method
    if Path(source.path).expanduser().exists():
        return check_file(source.path, max_length=max_length, method=method, **options)
    rows = read_rows([source.model_copy(update={"weight": 1.0})], role=role, seed=run.training.seed)
    asked = Asked(chosen(options.get("rules"), options.get("without", ())), max_length, method)
    return check_rows([row.value for row in rows], rows[0].source, asked)


def _streams(name: str) -> bool:
    return Path(name).suffix.lower() in STREAMED


def _require_lines(skip_bad: Path | None, names: list[str]) -> None:
    """Raises ConfigError where bad lines are asked for that no file can have, or their file exists."""
    if skip_bad is None:
        return
    require_new(Path(skip_bad).expanduser())
    if not any(map(_streams, names)):
        hint = "convert it to .jsonl, a row a line; or leave --skip-bad out"
        raise ConfigError(f"--skip-bad: {', '.join(names)} is not read by lines", hint)


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
