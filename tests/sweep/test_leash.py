"""A trial's process ends when the worker that started it does, whatever ended that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from repo import REPO

WORKER = """
import os, subprocess, sys, time
command = [sys.executable, "-c", "import time; print('on', flush=True); time.sleep(120)"]
leash = [sys.executable, "-m", "finetune.sweep.leash", str(os.getpid()), *command]
process = subprocess.Popen(leash, stdout=subprocess.PIPE, text=True, start_new_session=True)
process.stdout.readline()
print(process.pid, flush=True)
time.sleep(120)
"""


def alive(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels have no signal for a parent's death")
def test_a_trial_dies_with_its_worker() -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER], cwd=REPO, stdout=subprocess.PIPE, text=True)
    trial = int(worker.stdout.readline())
    try:
        assert alive(trial)
        worker.kill()
        worker.wait()
        end = time.monotonic() + 10
        while alive(trial) and time.monotonic() < end:
            time.sleep(0.02)
        assert not alive(trial)
    finally:
        if alive(trial):
            os.kill(trial, signal.SIGKILL)


def test_a_worker_that_is_gone_already_starts_nothing() -> None:
    command = [sys.executable, "-m", "finetune.sweep.leash", "1", sys.executable, "-c", "print('trained')"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the sweep that started this trial has ended" in done.stderr
