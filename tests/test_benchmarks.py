"""The benchmarks run: parity with plain TRL on a tiny model, and the GPU suite end to end on a processor."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from checked_page import Page
from repo import REPO
from scipy.stats import binomtest

from finetune.config import load_config

BENCHMARKS = REPO / "benchmarks"
FIRST = "qlora_7b_20_steps"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch):
    """A function that imports a script of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # two are no faster here, and far slower on a busy machine
    return subprocess.run(command, capture_output=True, text=True, env=one_thread)


def test_losses_equal_those_of_plain_trl(tiny_model: Path, rows_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "parity.json"
    done = run("parity_trl.py", "--model", tiny_model, "--data", rows_file, "--steps", 6, "--json", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "largest relative difference" in done.stdout
    result = json.loads(out.read_text())
    assert result["passed"] and result["tolerance"] == 1e-4
    assert result["max_relative_difference"] < 5e-6, "float32 summed in another order; adapters in fp32 differ by 2e-5"
    plain, ours = result["losses"]["plain_trl"], result["losses"]["finetune"]
    assert len(plain) == len(ours) == 6
    assert len(set(plain)) == 6, "the model learned nothing: equal losses would prove nothing"
    assert result["tokens"]["plain_trl"] == result["tokens"]["finetune"] > 0
    assert str(tmp_path) not in out.read_text()


def test_the_speed_of_preparing_rows(tiny_model: Path, rows_file: Path, tmp_path: Path) -> None:
    """That it is measured, and that both ways make the same tokens: of a dozen rows the speed says nothing."""
    out = tmp_path / "speed.json"
    done = run("prepare_speed.py", tiny_model, rows_file, "--pairs", 1, "--repeat", 20, "--json", out)
    result = json.loads(out.read_text())
    ours, trl = result["ways"]["finetune"], result["ways"]["trl"]
    assert (ours["tokens"], ours["trained"]) == (trl["tokens"], trl["trained"])
    assert 0 < ours["trained"] < ours["tokens"] and ours["packs"] <= trl["packs"]
    assert done.returncode == int(result["times"]["trl"] < 1.5), done.stderr


def test_the_committed_speed_of_preparing_rows() -> None:
    result = json.loads((BENCHMARKS / "results" / "prepare_speed.json").read_text())
    assert result["times"]["trl"] >= 1.5
    assert result["ways"]["finetune"]["tokens"] == result["ways"]["trl"]["tokens"]


def test_the_memory_of_a_stream(module, tiny_model: Path, rows_file: Path) -> None:
    """That both ways make the same tokens, and a stream goes on."""
    measure = module("streaming_memory").measure
    streamed, held = (measure(rows_file, str(tiny_model), way) for way in ("streamed", "held"))
    assert {key: streamed[key] for key in ("tokens", "packs")} == {key: held[key] for key in ("tokens", "packs")}
    assert streamed["resume_seconds"] >= 0 < held["bytes"]


def test_the_committed_memory_of_a_stream() -> None:
    runs = json.loads((BENCHMARKS / "results" / "streaming_memory.json").read_text(encoding="utf-8"))["runs"]
    held, once, ten = (runs[name] for name in ("held 30000", "streamed 30000", "streamed 300000"))
    assert once["tokens"] == held["tokens"] and ten["tokens"] > 9 * once["tokens"]
    assert ten["bytes"] < 1.1 * once["bytes"] < held["bytes"]
    page = Page(BENCHMARKS.parent / "docs" / "data.md")
    memory = [f"{line / 2**20:,.0f} MiB" for line in (ten["bytes"], once["bytes"], held["bytes"], ten["imports_bytes"])]
    page.says("300,000 rows take {}, a tenth of them {}; that tenth, held, {}; the libraries alone {}.".format(*memory))
    page.says(f"{ten['rows_a_second']:,} rows a second on one core, holding {held['rows_a_second']:,}")
    page.says(f"the next pack comes after {ten['resume_seconds']:.2f} s")


def test_the_cost_of_the_noise_scale(config_file: Path, tmp_path: Path) -> None:
    """That it is measured: on a tiny model it costs far more than the 2 % that it may cost on a real one."""
    out = tmp_path / "cost.json"
    done = run("noise_cost.py", config_file, "training.gradient_accumulation_steps=4", "--updates", 6, "--json", out)
    result = json.loads(out.read_text())
    assert result["pairs"] == 3 and result["device"] == "cpu"
    assert 0 < result["share_inside"] < 1
    assert done.returncode == int(result["share_inside"] > result["allowed"]), done.stderr
    refused = run("noise_cost.py", config_file, "training.gradient_accumulation_steps=1")
    assert "does not accumulate gradients" in refused.stderr


def test_the_speed_of_the_rules(tmp_path: Path) -> None:
    """That it is measured: two thousand rows do not pay for the processes that check a million."""
    out = tmp_path / "speed.json"
    done = run("rules_speed.py", "--rows", 2000, "--json", out)
    assert done.returncode in (0, 1), done.stderr
    result = json.loads(out.read_text())
    assert all(one["rows_a_second"] > 0 for one in result["runs"].values()), result


def test_the_time_of_a_preflight(config_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "time.json"
    done = run("preflight_time.py", "--rounds", 1, "--json", out, config_file)
    assert done.returncode == 0, done.stdout + done.stderr
    row = json.loads(out.read_text())["configs"]["config"]
    assert 0 < row["seconds"] == row["rounds"][0]
    assert 0 < row["allocated_bytes"] < row["bytes"]
    assert "with advice" in done.stdout


def test_losses_that_differ_are_told_apart(module) -> None:
    parity = module("parity_trl")
    assert parity.relative_differences([2.0, 4.0], [2.0, 3.0]) == [0.0, 0.25]
    assert parity.agree([0.0, 1e-4])
    assert not parity.agree([0.0, 1.1e-4])
    assert not parity.agree([0.0, math.nan])
    with pytest.raises(ValueError, match="shorter"):
        parity.relative_differences([2.0, 4.0], [2.0])


def test_a_half_that_fails_says_why(module) -> None:
    with pytest.raises(SystemExit, match="no such model") as left:
        module("parity_trl").run_python("-c", "raise SystemExit('no such model')")
    assert left.value.code != 0


def test_the_first_line_of_the_gpu_suite_runs_on_a_processor(tmp_path: Path) -> None:
    done = run("gpu_suite.py", "--cpu-proof", "--out", tmp_path, "--only", FIRST)
    result = json.loads((tmp_path / f"{FIRST}.json").read_text())
    assert result["status"] == "measured", result.get("reason", done.stderr)
    assert len(result["losses"]) == 2 and all(loss > 0 for loss in result["losses"])
    assert result["sequences"] == {"number": 32, "tokens": 32 * 64}, "packs that are not full measure too little"
    assert result["speed"]["tokens"] == 32 * 64 and result["speed"]["tokens_per_second"] > 0
    assert result["predicted"]["allocated_bytes"] > 0
    assert result["measured"]["resident_bytes"] > 0
    assert f"| {FIRST} |" in (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "environment.json").read_text())["torch"]

    written = (tmp_path / f"{FIRST}.json").stat().st_mtime_ns
    again = run("gpu_suite.py", "--cpu-proof", "--out", tmp_path, "--only", FIRST)
    assert again.returncode == 0 and f"| {FIRST} |" in again.stdout
    assert (tmp_path / f"{FIRST}.json").stat().st_mtime_ns == written, "a line that has its result ran again"


def test_no_line_begins_without_budget(tmp_path: Path) -> None:
    done = run("gpu_suite.py", "--out", tmp_path, "--budget-seconds", 1)
    assert done.returncode == 0
    assert "the budget is spent before line 1 of" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["environment.json", "table.md"]


def test_a_line_that_dies_costs_only_itself(module, tmp_path: Path) -> None:
    suite, lines = module("gpu_suite"), module("gpu_lines").lines()
    options = suite.argparse.Namespace(models=None, cpu_proof=True)
    broken = suite.Line("no_such_line", "none", 1, 1, 1, ())
    suite.run_line(broken, tmp_path / "no_such_line.json", 60, options)
    result = json.loads((tmp_path / "no_such_line.json").read_text())
    assert (result["status"], result["reason"]) == ("failed", "exit code 1: StopIteration")
    suite.run_line(lines[0], tmp_path / "cut.json", 0.01, options)
    assert not (tmp_path / "cut.json").exists(), "cut off by the budget, a line must run again"


def test_a_line_without_its_model_is_skipped(tmp_path: Path) -> None:
    name = "llama-3.2-1b-nf4-8x512-ckpt-full_logits-sdpa-adamw_8bit"
    run("gpu_suite.py", "--cpu-proof", "--out", tmp_path, "--only", name)
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert result["status"] == "skipped"
    assert result["reason"] == "no config.json for Llama-3.2-1B: name a directory that has it with --models"


def test_a_line_predicted_not_to_fit_is_not_built(module, tmp_path: Path) -> None:
    gpu_lines, gpu_line = module("gpu_lines"), module("gpu_line")
    line = gpu_lines.shrunk(gpu_lines.lines()[0])
    line = dataclasses.replace(line, overrides=(*line.overrides, "hardware.memory=1MiB"))
    gpu_line.write_inputs(line, tmp_path, gpu_lines.model_config(line, None, tiny=True))
    result = {}
    with pytest.raises(gpu_lines.Skipped, match="this run needs"):
        gpu_line.measure(line, tmp_path, None, result)
    assert result["predicted"]["allocated_bytes"] > 2**20 == result["predicted"]["device_bytes"]
    assert "build" not in result["seconds"]


def test_the_grid_covers_what_it_promises(module, tmp_path: Path) -> None:
    gpu_lines = module("gpu_lines")
    lines = gpu_lines.lines()
    assert len({line.name for line in lines}) == len(lines) >= 25
    first, *grid = [
        load_config(gpu_lines.CONFIG, line.all_overrides(data__train=tmp_path, output_dir=tmp_path)) for line in lines
    ]
    assert lines[0].name == FIRST and (first.data.packing, first.hardware.memory) == (True, "24GiB")
    for line, config in zip(lines, [first, *grid], strict=True):
        assert (config.data.max_length, config.data.packing) == (line.sequence, line.packed)
        assert config.training.effective_batch_size * line.steps == line.rows
    assert len({line.model for line in lines}) >= 4 and "Llama-3.2-1B" in {line.model for line in lines}
    seen = {
        "quantization": {config.quantization.type for config in grid},
        "attention": {config.model.attention for config in grid},
        "loss": {config.training.loss_kernel for config in grid},
        "optimizer": {config.training.optimizer for config in grid},
        "checkpointing": {config.training.gradient_checkpointing for config in grid},
        "batch": {config.training.micro_batch_size for config in grid},
        "length": {config.data.max_length for config in grid},
    }
    assert seen == {
        "quantization": {"nf4", "none"},
        "attention": {"auto", "sdpa", "eager"},
        "loss": {"fused_linear", "full_logits"},
        "optimizer": {"adamw_torch", "adamw_8bit", "paged_adamw_8bit"},
        "checkpointing": {True, False, "auto"},
        "batch": {1, 2, 4, 8},
        "length": {512, 1024, 2048, 4096, 8192, 131072},
    }


def test_the_table_shows_errors_and_what_went_wrong(module) -> None:
    def result(name: str, measured: int) -> dict:
        memory = {"allocated_bytes": measured, "reserved_bytes": 2 * measured, "process_bytes": None}
        predicted = {"allocated_bytes": 2**30, "reserved_bytes": 2**31, "process_bytes": 2**31}
        errors = module("gpu_line").errors(predicted, memory)
        return {
            "name": name, "status": "measured", "predicted": predicted, "measured": memory, "errors": errors,
            "speed": {"tokens_per_second": 1234.5},
        }  # fmt: skip

    failed = {"name": "c", "status": "failed", "reason": "OutOfMemoryError: CUDA out of memory"}
    text = module("gpu_table").table([result("a", 2**30), result("b", 2**29), failed])
    assert "| b | 1.000 / 0.500 (+100.00%) | 2.000 / 1.000 (+100.00%) | 2.000 / not measured | 1,234 |" in text
    assert "| c | failed: OutOfMemoryError: CUDA out of memory |" in text
    assert "allocated: 2 lines, error median 50.00%, 95th percentile 95.00%, worst 100.00%" in text
    assert "process:" not in text


def test_results_name_no_machine(module: ModuleType) -> None:
    facts = module("environment").environment()
    assert facts["torch"] and facts["cpu"] and facts["cores"] >= 1
    assert "/" not in json.dumps(facts)


def test_what_other_methods_learn_on_a_processor() -> None:
    """The committed runs of learned.py: a reward that rises within ten minutes, and preferences that are learnt."""
    rloo = json.loads((BENCHMARKS / "results" / "learned_rloo.json").read_text(encoding="utf-8"))
    reward = rloo["held_out"]["reward"]
    assert reward["before"] < 0.5
    assert reward["after"] >= 0.8
    assert rloo["train"]["seconds"] < 600
    dpo = json.loads((BENCHMARKS / "results" / "learned_dpo.json").read_text(encoding="utf-8"))
    margin, accuracy = dpo["held_out"]["margin"], dpo["held_out"]["accuracy"]
    assert (margin["before"], accuracy["before"]) == (0, 0.5)
    assert margin["after"] > 0.1
    assert accuracy["after"] > 0.6
    rows = dpo["data"]["eval"]["rows"]
    chance = binomtest(round(accuracy["after"] * rows), rows).proportion_ci(method="wilson")
    page = Page(BENCHMARKS.parent / "docs" / "methods.md")
    page.says(f"`dpo` learnt from {dpo['data']['train']['rows']} preferences of")
    page.says(f"rows up to {dpo['overrides'][3].partition('=')[2]} tokens) on one busy thread")
    right = f"in {round(accuracy['after'] * rows)} of {rows} held-out pairs"
    page.says(f"{right} (95 % interval {chance.low:.2f} to {chance.high:.2f})")
    assert dpo["held_out"]["loss"]["after"] > dpo["held_out"]["loss"]["before"], "the page says so"
