"""`finetune data curate`: a new file of the rows worth keeping, one of those left out and why, and a receipt.

Rows are streamed: in memory are fingerprints while copies are sought (0.3 KB a row), then a few numbers a row; vectors
lie on disk. What a killed curation has done is kept, and the same command goes on from there to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from finetune.config import CurationConfig, DataSource, ModelConfig, RunConfig
from finetune.curation.chance import hits_of
from finetune.data.check import tally_of
from finetune.data.chunks import Asked
from finetune.data.curation_results import receipt_of, write_results
from finetune.data.curation_state import State
from finetune.data.curation_steps import STEPS, Selection, Step
from finetune.data.curation_vectors import held_out, labelled, write_vectors
from finetune.data.faults import count_of
from finetune.data.rules.registry import MAX_LENGTH, chosen
from finetune.data.stream import Stream, identify, open_stream, sha256_of
from finetune.embeddings import TextEncoder, open_encoder
from finetune.errors import ConfigError, DataError
from finetune.spec import locate_model

Progress = Callable[[str, float], None]
"""Called with a step's name and the share of it that is done."""


@dataclass(frozen=True)
class Job:
    """What is curated, and how. `evaluated` are the sources that leakage is sought in, `max_length` is in tokens,
    `model` is what the encoder `model` takes its vectors from, `method` what the rows are meant for."""

    sources: list[DataSource]
    settings: CurationConfig
    evaluated: list[DataSource]
    max_length: int = MAX_LENGTH
    model: ModelConfig | None = None
    method: str | None = None


def file_job(path: Path, settings: CurationConfig, evaluated: Path | None = None) -> Job:
    """A file of rows, and one of rows that must not leak into it. Raises ConfigError where it is no file, or where
    nothing is compared with the second."""
    if not path.expanduser().is_file():
        raise ConfigError(f"{path}: no such file", "name a file of rows, or a configuration")
    if evaluated and settings.leakage is None:
        raise ConfigError(f"--eval {evaluated}: nothing is compared with its rows", "set curation.leakage=0.95")
    return Job([DataSource(path=str(path))], settings, [DataSource(path=str(evaluated))] if evaluated else [])


def config_job(config: RunConfig) -> Job:
    """All training sources of a configuration. Raises ConfigError for one with a weight other than 1."""
    data = config.data
    for source in _sources(data.train):
        if source.weight != 1:
            hint = "curate each source by itself, and give the curated files their weights in data.train"
            raise ConfigError(f"{source.path}: weight {source.weight:g}, but a curated file has every row once", hint)
    return Job(
        _sources(data.train),
        config.curation,
        _sources(data.eval or []),
        data.max_length,
        config.model,
        config.training.method,
    )


def curate(job: Job, out: Path, progress: Progress = lambda step, share: None) -> dict[str, Any]:
    """Curates into the directory `out`, and returns its receipt.

    Raises ConfigError where settings contradict each other, a source cannot be had, or `out` holds anything but this
    very curation unfinished; DataError where no row would be kept or labels are too few; the encoder's errors.
    """
    settings = job.settings
    rules = Asked(chosen(settings.rules, settings.without or ()), job.max_length, job.method)
    parts = [identify(source) for source in job.sources]
    encoder = _encoder(job)
    asked = _asked(job, encoder)
    with State.begin(out, {"sources": {part.name: {"sha256": part.sha256} for part in parts}, **asked}) as state:
        stream = open_stream(job.sources, parts, state.work / "rows.jsonl", seed=settings.seed)
        checked = state.remember("rules", lambda: _check(stream, rules, progress))
        steps = list(_steps(job, stream, state, checked, encoder, progress)) if encoder else []
        _require_rows(checked, steps)
        receipt = receipt_of(stream, asked, checked, steps, write_results(stream, checked, steps, state.work))
        state.finish(receipt)
    return receipt


def _require_rows(checked: dict[str, Any], steps: list[Step]) -> None:
    """Raises DataError where every row is dropped."""
    dropped = len({row for row, *_ in checked["findings"]}) + sum(len(step.rows) for step in steps)
    if dropped == checked["rows"]:
        hint = "`finetune data check` shows the findings; ask for less, in another --out"
        raise DataError(f"none of {count_of(checked['rows'], 'row')} would be kept", hint)


def _sources(named: str | list[DataSource]) -> list[DataSource]:
    return [DataSource(path=named)] if isinstance(named, str) else named


def _encoder(job: Job) -> TextEncoder | None:
    """What makes the vectors; None where no step needs any. Opened before all else, so that one which cannot be had is
    known at once."""
    if job.settings.leakage and not job.evaluated:
        hint = "name some: --eval FILE beside a file of rows, data.eval in a configuration"
        raise ConfigError(f"curation.leakage={job.settings.leakage}: there are no rows of data.eval", hint)
    if not job.settings.needs_vectors:
        return None
    return open_encoder(job.settings.encoder, locate_model(job.model) if job.model else None)


def _asked(job: Job, encoder: TextEncoder | None) -> dict[str, Any]:
    """All but the sources that the result depends on."""
    settings = job.settings
    asked: dict[str, Any] = {"curation": settings.model_dump(mode="json"), "max_length": job.max_length}
    if encoder:
        asked["encoder"] = encoder.name
    if settings.leakage:
        asked["eval"] = {source.path: {"sha256": identify(source).sha256} for source in job.evaluated}
    if settings.labels:
        asked["labels"] = {settings.labels: {"sha256": sha256_of(Path(settings.labels).expanduser())}}
    return asked


def _check(stream: Stream, rules: Asked, progress: Progress) -> dict[str, Any]:
    """What `data check` finds, for JSON; `blank` are blank lines that hold the place of a row."""
    name = ", ".join(part.name for part in stream.parts)
    tally = tally_of(stream.path, name, rules, progress=partial(progress, "rules"))
    result = tally.result(name, copies_of_clean=True)
    if not result.rows:
        raise DataError(f"{name}: holds no rows", "write the file again or name another")
    flagged = len(result.flagged)
    beside = hits_of("rows with a finding", flagged, having=flagged, size=flagged, count=result.rows)
    return {
        "rows": result.rows,
        "findings": [(one.row, one.line, one.rule, one.detail) for one in result.findings],
        "blank": [bad.line for bad in result.bad_lines if bad.rule == "blank_line"],
        "notes": result.notes,
        "chance": [asdict(beside)] if flagged else [],
    }


def _steps(
    job: Job, stream: Stream, state: State, checked: dict[str, Any], encoder: TextEncoder, progress: Progress
) -> Iterator[Step]:
    """The steps that look at vectors, each taken or remembered."""
    settings, vectors = job.settings, state.vectors()
    flagged = {row for row, *_ in checked["findings"]}
    rows = np.setdiff1d(np.arange(checked["rows"]), np.fromiter(flagged, np.int64))
    write_vectors(stream, flagged, set(checked["blank"]), len(rows), encoder, vectors, partial(progress, "vectors"))
    selection = Selection(
        settings,
        vectors,
        rows,
        held_out=lambda: held_out(job.evaluated, encoder, settings.seed),
        labelled=lambda: labelled(settings.labels, encoder, settings.seed),
    )
    left = np.arange(len(rows))
    for name in filter(selection.asked, STEPS):
        progress(name, 0.0)
        step = Step(**state.remember(name, lambda name=name, left=left: asdict(selection.take(name, left))))
        progress(name, 1.0)
        yield step
        left = left[~np.isin(rows[left], step.rows)]
