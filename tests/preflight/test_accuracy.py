"""How far the preflight is off, over runs that other people measured; and tables that are not as they should be."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from families import write_family
from repo import REPO

sys.path.insert(0, str(REPO / "benchmarks"))
import preflight_accuracy
from measured_runs import LOOPS

KNOWN_MISSES = {
    "fitcheck.t4-phase3-2026-09-16.04",  # SmolLM2-1.7B, NF4, eager, 1 x 2,048
    "fitcheck.final-t4-20260921.05",  # Qwen2.5-Coder-1.5B, NF4, 1 x 1,024
}
"""Runs whose process is more than 10 % off: reserved memory there hangs on the order of thousands of allocations."""
COMMITTED = REPO / "benchmarks" / "results" / "preflight_accuracy.json"

ROW = {
    "id": "one", "source": "Anassbzdd/fitcheck", "model": "tiny", "quantization": "nf4", "double_quant": "True",
    "lora_r": "8", "lora_alpha": "16", "lora_dropout": "", "targets": "q_proj+v_proj", "micro_batch_size": "2",
    "seq_len": "128", "gradient_checkpointing": "True", "attention": "eager", "optimizer": "adamw_torch",
    "base_dtype": "float16", "autocast": "none", "fp32_unquantized": "False", "loss": "full_logits_fp32",
    "gpu": "Tesla T4", "allocated_bytes": "20000000", "reserved_bytes": "", "process_bytes": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def truth(shared: Path) -> Path:
    return shared / "truth" / "memory.csv"


@pytest.fixture(scope="module")
def found(truth: Path) -> dict:
    """Every row of the table, once: about 80 s."""
    return preflight_accuracy.accuracy(truth)


def errors(found: dict, loss: str, figure: str) -> dict[str, float]:
    """Absolute errors by run."""
    runs = [run for run in found["runs"] if run["loss"] == loss and figure in run["errors"]]
    return {run["id"]: abs(run["errors"][figure]) for run in runs}


def overall(found: dict, loss: str, figure: str) -> dict:
    """The line of the summary over all sources."""
    wanted = (loss, figure, preflight_accuracy.EVERY)
    return next(line for line in found["summary"] if (line["loss"], line["figure"], line["source"]) == wanted)


def test_every_row_is_predicted_but_those_whose_loss_is_not_ours(found: dict, truth: Path) -> None:
    with truth.open(encoding="utf-8") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert len(found["runs"]) + len(found["skipped"]) == len(rows) >= 25
    assert {rows[row["id"]]["loss"] for row in found["skipped"]} == {"triton_cross_entropy"}
    assert {row["reason"] for row in found["skipped"]} == {
        "ours has no Triton cross entropy over materialised 16-bit logits"
    }
    assert {run["source"].lower() for run in found["runs"]} == set(LOOPS)


def test_allocated_with_full_logits(found: dict) -> None:
    line = overall(found, "full_logits", "allocated")
    assert line["runs"] >= 40
    assert (line["median"] <= 0.005, line["p95"] <= 0.015, line["worst"] <= 0.03) == (True, True, True), line


def test_allocated_with_a_fused_loss(found: dict) -> None:
    assert max(errors(found, "fused_linear", "allocated").values()) <= 0.05


def test_norms_explain_what_fused_rows_hold_less(found: dict) -> None:
    """Where attention keeps grouped heads as ours does, which Mistral's of 2024 does not, and the base is in 4 bits."""
    runs = [run for run in found["runs"] if run["loss"] == "fused_linear" and run["quantization"] == "nf4"]
    assert runs
    assert all(abs(run["errors"]["allocated"]) > 0.02 and abs(run["without_norms"]) < 0.001 for run in runs)


def test_process(found: dict) -> None:
    off = errors(found, "full_logits", "process")
    assert overall(found, "full_logits", "process")["median"] <= 0.03
    misses = {name for name, error in off.items() if error > 0.10}
    print("known to miss:", {name: f"{off[name]:.1%}" for name in misses & KNOWN_MISSES})
    assert misses <= KNOWN_MISSES
    assert max(off.values()) < 0.16


def test_the_committed_results_are_those_of_this_code(found: dict) -> None:
    """The page's table and picture are made from the file, so it must not fall behind."""
    committed = {run["id"]: run["predicted"]["allocated"] for run in json.loads(COMMITTED.read_text())["runs"]}
    now = {run["id"]: run["predicted"]["allocated"] for run in found["runs"]}
    assert committed == pytest.approx(now, rel=1e-3), (
        f"run scripts/preflight-accuracy TRUTH.csv --json {COMMITTED.relative_to(REPO)}, then scripts/update_docs.py"
    )


def write_table(folder: Path, *rows: dict[str, str]) -> Path:
    """A table of these rows, with a tiny model beside it."""
    write_family("llama3", folder / "models" / "tiny")
    path = folder / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Status, output and errors of the script."""
    status = preflight_accuracy.main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_a_row_says_predicted_measured_and_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_table(tmp_path, ROW | {"process_bytes": "3e8"}, ROW | {"id": "again"})
    out = tmp_path / "out.json"
    status, shown, _ = run(capsys, table, "--json", out)
    assert status == 0
    result = json.loads(out.read_text())
    first, second = result["runs"]
    predicted = first["predicted"]
    assert predicted == second["predicted"] and predicted["allocated"] <= predicted["reserved"] < predicted["process"]
    assert first["errors"] == {
        "allocated": pytest.approx(predicted["allocated"] / 2e7 - 1),
        "process": pytest.approx(predicted["process"] / 3e8 - 1),
    }
    assert f"{predicted['allocated']:,}      20,000,000" in shown and "300,000,000" in shown
    assert "2 runs predicted, 0 skipped" in shown
    assert [(line["figure"], line["source"], line["runs"]) for line in result["summary"]] == [
        ("allocated", "all sources", 2),
        ("allocated", "Anassbzdd/fitcheck", 2),
        ("process", "all sources", 1),
        ("process", "Anassbzdd/fitcheck", 1),
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gpu": "Voodoo 2"}, "'Voodoo 2' is not a known card"),
        ({"gpu": "A100"}, "'A100' is several cards"),
        ({"optimizer": "", "lora_r": ""}, "lora_r, optimizer missing"),
        ({"lora_r": "many"}, "r: Input should be a valid integer, unable to parse string as an integer, found 'many'"),
        ({"model": "huge"}, "no huge/config.json in "),
        ({"targets": "no_proj"}, "no_proj"),
        ({"loss": "triton_cross_entropy"}, "ours has no Triton cross entropy over materialised 16-bit logits"),
        ({"loss": "mse"}, "the loss 'mse' is not known"),
        ({"allocated_bytes": ""}, "allocated_bytes is missing"),
        ({"allocated_bytes": "8 GB"}, "allocated_bytes: '8 GB' is not a number"),
        ({"allocated_bytes": "-1"}, "allocated_bytes: -1 is not a number of bytes above 0"),
    ],
)
def test_a_row_that_cannot_be_run_is_skipped_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], reason: str
) -> None:
    status, shown, error = run(capsys, write_table(tmp_path, ROW | change))
    assert (status, error) == (0, "")
    line = next(line for line in shown.splitlines() if line.startswith("skipped: "))
    assert reason in line and line.endswith("  one")
    assert "0 runs predicted, 1 skipped" in shown


def test_a_column_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {name: value for name, value in ROW.items() if name not in ("attention", "id")}
    _, shown, _ = run(capsys, write_table(tmp_path, row))
    assert "skipped: attention missing  row 1" in shown


def test_a_trace_that_fails_costs_only_its_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = preflight_accuracy.predict

    def breaks_on_one(spec, batch, **options):
        if batch.rows == 1:
            raise NotImplementedError("no meta kernel\nfor this")
        return real(spec, batch, **options)

    monkeypatch.setattr(preflight_accuracy, "predict", breaks_on_one)
    table = write_table(tmp_path, ROW | {"id": "bad", "micro_batch_size": "1", "seq_len": "96"}, ROW)
    status, shown, _ = run(capsys, table)
    assert status == 0 and "1 runs predicted, 1 skipped" in shown
    assert "skipped: the trace failed, a fault of ours: NotImplementedError: no meta kernel  bad" in shown


def test_the_loop_follows_from_the_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Keeping the output through the backward pass costs the 16-bit logits; an unknown source is taken as our loop."""
    long = ROW | {"micro_batch_size": "8", "seq_len": "512"}
    table = write_table(tmp_path, long, long | {"id": "two", "source": "me/mine"}, long | {"id": "three", "source": ""})
    _, shown, _ = run(capsys, table, "--json", tmp_path / "out.json")
    kept, ours, blank = (
        run["predicted"]["allocated"] for run in json.loads((tmp_path / "out.json").read_text())["runs"]
    )
    assert ours == blank
    assert kept - ours == 8 * 512 * 512 * 2
    assert "me/mine: is not known here: taken as our own loop" in shown


def test_fused_rows_stand_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, shown, _ = run(capsys, write_table(tmp_path, ROW | {"loss": "fused_linear"}))
    assert "allocated, fused_linear (goal: worst 5.0%)" in shown
    assert "allocated, full_logits" not in shown
    assert "(without norms " in shown and "transformers' two norms hold float32 copies" in shown


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    """Through the script itself, as a person runs it."""
    done = subprocess.run(
        [sys.executable, REPO / "scripts" / "preflight-accuracy", tmp_path / "none.csv"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert f"error: {tmp_path}/none.csv: no such file" in done.stderr
    assert "hint: give the path of a CSV table of measured runs" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_table_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text("")
    assert run(capsys, table)[2].startswith(f"error: {table}: no rows below a row of column names\nhint: columns: id, ")
    table.write_bytes(b"\xff\xfe\x00")
    assert f"{table}: cannot be read" in run(capsys, table)[2]
    status, _, error = run(capsys, tmp_path)
    assert status == 2 and "cannot be read" in error


def test_models_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = run(capsys, write_table(tmp_path, ROW), "--models", tmp_path / "none")
    assert status == 2
    assert f"error: {tmp_path}/none: no such directory\nhint: name a directory of MODEL/config.json" in error


def test_results_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = run(capsys, write_table(tmp_path, ROW), "--json", tmp_path / "none" / "out.json")
    assert status == 2
    assert "cannot be written" in error
