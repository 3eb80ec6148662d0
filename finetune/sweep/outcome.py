"""What became of the trials: of one when it ends, by what its run directory holds, and of the whole sweep."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from finetune.errors import DoesNotFit, FinetuneError, Stopped
from finetune.sweep.record import Record, Trial
from finetune.sweep.trial import read_lines

STOPPED = 5
"""Exit code of a run that can be resumed."""


def settle(record: Record, trial: Trial, result: dict[str, Any] | None) -> None:
    """What became of a trial, by what its run directory holds; `result` is the last that Ray was told."""
    run, log = record.path / trial.name, record.path / f"{trial.name}.log"
    report = run / "report.json"
    code = (result or {}).get("code", "none")
    trial.reason = ""
    if report.exists():
        found = json.loads(report.read_text(encoding="utf-8"))
        trial.status = "finished"
        trial.metric = found["held_out"][record.metric.removeprefix("eval_")]["after"]
        trial.steps, trial.seconds = found["train"]["steps"], round(found["train"]["seconds"], 3)
    elif result is None:
        trial.status, trial.reason = "failed", "Ray's worker ended without a word"
    elif code == "none":
        _stopped_early(record, trial)
    elif code == STOPPED:
        trial.status, trial.reason = "stopped", _error(log, code)
    elif code is not None:
        trial.status, trial.reason = "failed", _error(log, code)


def _stopped_early(record: Record, trial: Trial) -> None:
    lines = list(read_lines(record.path / trial.name / "metrics.jsonl"))
    figures = [line for line in lines if line.get(record.metric) is not None]
    trial.status, trial.metric = "stopped early", figures[-1][record.metric]
    trial.steps = lines[-1]["step"]
    trial.seconds = next((line["seconds"] for line in reversed(lines) if "seconds" in line), None)
    trial.reason = f"{record.metric} {trial.metric:.4f} at update {figures[-1]['step']} was behind others"


def _error(log: Path, code: int) -> str:
    """The first line of the error that the command ended with."""
    said = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    return errors[-1] if errors else f"the process ended with {code}, see {log}"


def conclude(record: Record, path: Path) -> None:
    """Raises Stopped where trials are left, DoesNotFit where none fits, FinetuneError where all have failed."""
    left = [trial for trial in record.left() if trial.status != "failed"]
    finished = [trial for trial in record.trials if trial.status in ("finished", "stopped early")]
    failed = [trial for trial in record.trials if trial.status == "failed"]
    if left:
        raise Stopped(
            f"stopped with {len(left)} of {len(record.trials)} trials left",
            record.path,
            command=resuming(path),
        )
    require_some(record)
    if failed and not finished:
        log = record.path / f"{failed[0].name}.log"
        raise FinetuneError(f"every trial failed; {failed[0].name}: {failed[0].reason}", f"read {log}")


def resuming(path: Path) -> str:
    """The command that goes on with the sweep of a file."""
    return f"finetune sweep {shlex.quote(str(path))} --resume"


def require_some(record: Record) -> None:
    """Raises DoesNotFit where no trial fits."""
    first = record.trials[0]
    if all(trial.status == "does not fit" for trial in record.trials):
        raise DoesNotFit(
            f"none of the {len(record.trials)} trials fits; {first.name}: {first.reason}", "; ".join(first.advice)
        )
