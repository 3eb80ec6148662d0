"""The benchmarks of reinforcement learning run, scaled down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from repo import REPO

BENCHMARKS = REPO / "benchmarks"


def run(script: str, out: Path, *arguments: object) -> dict:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments), "--json", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text(encoding="utf-8"))


def test_steps_until_solved(tmp_path: Path) -> None:
    found = run("rl_solved.py", tmp_path / "out.json", "--seeds", 2, "--steps", 2_100, "--only", "actor-critic")
    assert found["seeds"] == [100, 101] and list(found["runs"]) == ["actor-critic"]
    run_ = found["runs"]["actor-critic"]
    assert [len(curve) for curve in run_["curves"]] == [1, 1] and 2_048 <= run_["curves"][0][0][0] < 2_100
    assert run_["microseconds_a_step"] > 0 and found["environment"]["gymnasium"]


def test_the_ablation(tmp_path: Path) -> None:
    found = run("rl_ablation.py", tmp_path / "out.json", "--seeds", 1, "--steps", 1_100)
    assert list(found["variants"]) == ["whole", "not Double", "no target network", "no replay", "neither"]
    for (one,) in found["variants"].values():
        assert one["steps"] == [1_024.0] and len(one["returns"]) == len(one["doomed_value"]) == 1
    assert found["settings"]["steps"] == 1_100
