"""What Ray's workers are given to do."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from finetune.cores import usable_cores
from finetune.sweep.record import Record, Trial
from finetune.sweep.trial import Job
from finetune.sweep.tuning import Plan
from finetune.whole_file import remove_folder

PROGRAM = [sys.executable, "-m", "finetune", "train"]
"""What a trial is."""


def make_jobs(record: Record, config: str, plan: Plan, stop: Path) -> dict[str, Job]:
    """What Ray's workers do, by name. Early stopping compares with trials that have ended, so these are told too."""
    shared = usable_cores() // plan.concurrent if plan.concurrent > 1 and not plan.cards else None
    threads = os.environ.get("OMP_NUM_THREADS") or (str(max(1, shared)) if shared else None)
    jobs = {}
    for trial in record.trials:
        run, over = (record.path / trial.name).absolute(), trial.status in ("finished", "stopped early")
        if trial in record.left() or (over and plan.grace):
            command = None if over else _command(record, config, trial, run)
            log = run.with_name(f"{trial.name}.log")
            jobs[trial.name] = Job(command, run, log, record.metric, Path.cwd(), stop, threads)
    return jobs


def overrides(record: Record, trial: Trial) -> list[str]:
    """What makes a trial of the configuration that all share, as arguments of `finetune train`."""
    return [*trial.overrides(), f"output_dir={json.dumps(str(record.path / trial.name))}"]


def _command(record: Record, config: str, trial: Trial, run: Path) -> list[str]:
    if not (run / "config.yaml").exists():
        remove_folder(run)  # of a process that was killed before it had written anything down
        return [*PROGRAM, config, *overrides(record, trial)]
    return [*PROGRAM, config, *overrides(record, trial), "--resume"]
