"""The gradient noise scale in report.json, on the pages and as a curve."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from finetune import pipeline
from finetune.config import load_config
from finetune.report.batch import batch_rows
from finetune.report.curves import draw_curves
from finetune.report.pages import write_pages
from finetune.report.schema import Report


def report_of(noise: dict | None, size: int = 16) -> Report:
    train = {"micro_batch_size": 2, "effective_batch_size": size, "noise_scale": noise}
    return Report.model_validate({"train": train})


@pytest.mark.parametrize(
    ("noise", "interval", "suggests"),
    [
        ({"value": 64.2, "low": 40, "high": 100}, "64.2 (95 % interval 40 to 100)", "about 64 in place of 16"),
        ({"value": 64.2, "low": 40, "high": None}, "64.2 (95 % interval 40 or more)", "about 64 in place of 16"),
        ({"value": None, "low": 9, "high": None}, "unbounded (95 % interval 9 or more)", "not told apart from noise"),
    ],
)
def test_what_the_pages_say(noise: dict, interval: str, suggests: str) -> None:
    rows = dict(batch_rows(report_of(noise)))
    assert rows["Effective batch size"] == "16"
    assert rows["Gradient noise scale, rows"] == interval
    assert suggests in rows["Suggests"]


def test_without_a_measurement_there_is_no_table() -> None:
    assert batch_rows(report_of(None)) == []


def test_the_curve_shows_its_interval_and_the_batch_that_was_taken() -> None:
    rows = [
        {"step": step, "noise_scale": 20.0 + step, "noise_scale_low": 10.0, "noise_scale_high": 40.0 + step}
        for step in range(2, 9)
    ]
    del rows[0]["noise_scale_high"], rows[0]["noise_scale"]  # unbounded at first
    curve = next(curve for curve in draw_curves(rows, effective_batch_size=16) if curve.name == "noise_scale")
    assert curve.summary == "Gradient noise scale, rows 23 at step 3, 28 at step 8"
    assert [words for _, words in curve.key] == ["with its 95 % interval", "effective batch"]
    assert not any(curve.name == "noise_scale" for curve in draw_curves([{"step": 1, "loss": 2.0}]))


def test_a_real_run_has_all_three(config_file: Path) -> None:
    keys = ["training.max_steps=4", "training.learning_rate=1e-4", "data.eval=null"]
    config = load_config(config_file, keys)
    report = pipeline.train(config, Console(file=io.StringIO()))
    run = Path(config.output_dir)
    found = report["train"]["noise_scale"]
    assert found["low"] <= found["value"] and found["updates"] > 1
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if "loss" in line][-1]
    assert last["noise_scale"] == pytest.approx(found["value"])
    page = (run / "report.md").read_text()
    assert "## Batch size" in page and "Gradient noise scale, rows" in page
    assert "Gradient noise scale" in (run / "report.html").read_text()
    write_pages(run)
