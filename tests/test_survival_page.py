"""docs/survival.md says what the committed results and the program's constants say; chaos and faults run here too."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checked_page import Page
from repo import REPO

from finetune.training import guards, keeper


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(REPO / "benchmarks")
    return importlib.import_module("survival")


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPO / "benchmarks" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_every_number(tables) -> None:
    page = Page(REPO / "docs" / "survival.md")
    for name, table in tables.tables().items():
        page.says(f"<!-- {name}: written by scripts/update_docs.py --> {table} <!-- /{name} -->")
    assert keeper.INTERVAL == 600
    page.says("saves every ten minutes")
    page.says(f"take more than {keeper.SHARE:.0%}".replace("%", " %") + " of the time")
    assert guards.ADVISED == 3
    page.says("says how to go on, exits with 5")
    page.says("then the run stops in words and exits with 5")
    page.says("exits with 2 where")
    assert page.unchecked() == []


def test_the_committed_results_show_no_fault(tables) -> None:
    chaos, faults = tables.load("chaos"), tables.load("faults")
    assert {one["scenario"] for one in chaos["scenarios"]} >= {"sft", "packed", "streaming", "dpo", "rloo", "grpo"}
    for one in chaos["scenarios"]:
        assert one["kills"] >= (100 if one["scenario"] == "sft" else 40)
        assert one["equal"] == one["runs"] > 0
        assert one["faults"] == []
        assert one["on_disk"] > 10
    assert faults["faults"] == []
    assert sum(row["cases"] for row in faults["rows"]) > 1_000
    assert all(one["share"] < 0.01 for one in tables.load("checkpoint_cost").values())
    assert all(one["share_inside"] < 0.01 for one in tables.load("guards").values())


def test_ten_kills(tmp_path: Path) -> None:
    """Two of each of five kinds of run."""
    kinds = [f"--scenario={kind}" for kind in ("sft", "packed", "streaming", "dpo", "grpo")]
    done = run("chaos.py", "--kills", 2, "--seed", 7, "--json", tmp_path / "chaos.json", *kinds)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "chaos.json").read_text(encoding="utf-8"))["scenarios"]
    assert sum(one["kills"] for one in found) >= 10
    assert all(one["equal"] == one["runs"] for one in found)


def test_some_faults(tmp_path: Path) -> None:
    done = run("faults.py", "--every", 503, "--json", tmp_path / "faults.json")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "faults.json").read_text(encoding="utf-8"))["faults"] == []
