"""The study of the batch, which takes a minute: run once, whatever process asks first."""

from __future__ import annotations

from pathlib import Path

import dill  # its pictures are functions, which pickle does not take
import pytest
from filelock import FileLock
from lab_command import run_lab

from finetune.study import Study


@pytest.fixture(scope="session")
def batch_study(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Study:
    """What `finetune lab batch` found."""
    folder: Path = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):  # pytest-xdist: workers have this folder in common
        folder = folder.parent
    with FileLock(folder / "batch.lock"):
        kept = folder / "batch.pickle"
        if not kept.exists():
            kept.write_bytes(dill.dumps(run_lab("batch", folder / "batch")))
    return dill.loads(kept.read_bytes())
