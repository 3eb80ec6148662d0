"""One trial, in a worker of Ray's: `finetune train` in a process of its own, its held-out figures handed on to Ray.

A process of its own, because a run takes the signals, the random numbers and the memory of the process that it is; so
it is the run that `finetune train` would be, to the bit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOOKS = 0.2
"""Seconds between looks at metrics.jsonl."""


@dataclass(frozen=True)
class Job:
    """What a worker does for a trial: `command` is what trains, None where the trial has ended and
    only its figures are told once more. `stop` is a file that asks all trials to end; `threads` what OMP_NUM_THREADS
    is to be, None where it is not to be set."""

    command: list[str] | None
    run: Path
    log: Path
    metric: str
    folder: Path
    stop: Path
    threads: str | None


def run_trial(config: dict[str, Any], jobs: dict[str, Job]) -> dict[str, Any]:
    """Ray's trainable: runs the trial that `config` names. The result has the command's exit code under `code`, None
    where it was never begun."""
    from ray import tune

    job = jobs[config["trial"]]
    told = _Figures(job, tune.report)
    if job.command is None:
        told.tell(to_the_end=True)
        return {"code": 0}
    if job.stop.exists():
        return {"code": None}
    with job.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "finetune.sweep.leash", str(os.getpid()), *job.command],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=job.folder, env=_environment(job),
            start_new_session=True,  # Ctrl-C reaches it through `stop`, once
        )  # fmt: skip
    try:
        _follow(process, job, told)
    finally:  # where Ray ends this thread, in `tune.report`
        process.kill()
        process.wait()
    told.tell(to_the_end=True)
    return {"code": process.returncode}


def _environment(job: Job) -> dict[str, str]:
    """That of the sweep: Ray sets the number of threads in its workers to its own account."""
    rest = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return {**rest, **({"OMP_NUM_THREADS": job.threads} if job.threads else {})}


def _follow(process: subprocess.Popen, job: Job, told: _Figures) -> None:
    asked = False
    while process.poll() is None:
        if not asked and job.stop.exists():
            asked = True
            process.send_signal(signal.SIGTERM)  # the update is finished and saved
        told.tell()
        time.sleep(LOOKS)


class _Figures:
    """Held-out figures of a run as they come. One is told when the run has gone beyond it: a trial that is stopped for
    its last figure would be stopped at its end, before its adapter is saved."""

    def __init__(self, job: Job, report: Callable[[dict[str, Any]], None]) -> None:
        self.file, self.metric, self.report = job.run / "metrics.jsonl", job.metric, report
        self.last = -1

    def tell(self, *, to_the_end: bool = False) -> None:
        lines = list(read_lines(self.file))
        end = max((line["step"] for line in lines), default=0) + to_the_end
        for line in lines:
            if line.get(self.metric) is not None and self.last < line["step"] < end:
                self.last = line["step"]
                self.report({"step": line["step"], self.metric: line[self.metric]})


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl that are written to their end."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)
