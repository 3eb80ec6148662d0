"""`finetune lab NAME` as a user runs it, and the study that it made."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from typer.testing import CliRunner

from finetune.cli.machine import LABS
from finetune.cli.main import app
from finetune.study import Study


def run_lab(name: str, folder: Path) -> Study:
    """Runs the command once, with `--json`; asserts that it printed one object and wrote its files."""
    module, made = importlib.import_module(LABS[name]), []
    original = module.run
    module.run = lambda: made.append(original()) or made[-1]
    try:
        done = CliRunner().invoke(app, ["lab", name, "--out", str(folder), "--json"])
    finally:
        module.run = original
    assert done.exit_code == 0, done.output
    study = made[0]
    printed = json.loads(done.stdout)
    assert printed == json.loads(json.dumps(study.to_json()))
    assert printed == json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    for plot in study.plots:
        assert (folder / f"{name}-{plot.name}.svg").read_text(encoding="utf-8").endswith("</svg>\n")
    return study
