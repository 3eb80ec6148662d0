"""The command line: quick help, JSON alone on stdout, errors with a hint and the contract's exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from repo import REPO

from finetune import cli


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "finetune.cli", *arguments]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the command line in this process: (exit code, stdout, stderr)."""

    def _call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["finetune", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as done:
            code = int(done.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return _call


def test_help_comes_at_once() -> None:
    quickest = min(_timed_help() for _ in range(3))
    # The contract is 0.5 s on an idle machine; twice that leaves room for a busy one and still catches torch (> 1.5 s).
    assert quickest < 1.0


def _timed_help() -> float:
    start = time.perf_counter()
    assert run("--help").returncode == 0
    return time.perf_counter() - start


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing argument"),
        (["train", "configs/quickstart.yaml", "--quick"], "No such option"),
        (["train", "none.yaml"], "none.yaml: no such file"),
        (["sweep", "none.yaml"], "none.yaml: no such file"),
        (["sweep", "configs/quickstart.yaml"], "model: unknown key"),
        (["train", "configs/quickstart.yaml", "max_steps"], "'max_steps' is not an override"),
        (
            ["preflight", "configs/qlora_r16.yaml", "--gpu", "RTX 9090"],
            "'RTX 9090' is not a known card; did you mean RTX",
        ),
        (["preflight", "configs/qlora_r16.yaml", "--gpu", "24"], "'24' is not a memory size"),
        (["eval", "no/such/run"], "no/such/run is not a run directory: it has no config.yaml"),
        (["chat", "configs"], "configs is not a run directory"),
        (["report", "no/such/run"], "is not a run directory"),
    ],
)
def test_usage_errors_say_what_and_what_to_do(call, arguments: list[str], words: str) -> None:
    code, out, err = call(*arguments)
    assert code == 2
    assert out == ""
    assert words in err
    assert "hint: " in err
    assert "Traceback" not in err


def test_preflight_json_has_the_contract_s_keys_and_nothing_else_on_stdout(call) -> None:
    code, out, _ = call("preflight", REPO / "configs/qlora_r16.yaml", "--gpu", "24GiB", "--json")
    verdict = json.loads(out)
    assert code == 0
    assert verdict["fits"] is True
    assert set(verdict["parameters"]) == {"total", "trainable", "quantized"}
    memory = verdict["memory"]
    assert {"allocated_bytes", "reserved_bytes", "process_bytes", "device_bytes", "peak_phase"} < set(memory)
    assert memory["allocated_bytes"] == sum(memory["breakdown_bytes"].values())
    assert memory["allocated_bytes"] < memory["reserved_bytes"] < memory["process_bytes"] < memory["device_bytes"]
    assert memory["device_bytes"] == 24 * 2**30
    assert verdict["advice"] == []


def test_preflight_that_does_not_fit_exits_3_and_says_what_would(call) -> None:
    code, out, _ = call("preflight", REPO / "configs/qlora_r16.yaml", "--gpu", "8GiB")
    assert code == 3
    assert "does not fit" in out
    assert "`training.micro_batch_size=2 training.gradient_accumulation_steps=8` would fit: " in out


def test_a_7b_run_without_a_gpu_is_refused_before_anything_is_fetched(call, tmp_path: Path) -> None:
    code, out, err = call("train", REPO / "configs/qlora_r16.yaml", f"output_dir={tmp_path / 'run'}")
    assert code == 3
    assert out == ""
    assert "this run needs a CUDA GPU with" in err
    assert "this machine has none (CPU," in err
    assert "finetune train configs/quickstart.yaml" in err
    assert not (tmp_path / "run").exists()


def test_schema_is_json_schema(call) -> None:
    code, out, _ = call("schema")
    assert code == 0
    assert json.loads(out)["properties"].keys() >= {"model", "quantization", "lora", "data", "training", "hardware"}


def test_doctor_reads_this_machine(call) -> None:
    code, out, _ = call("doctor", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["libraries"].keys() >= {"torch", "transformers", "peft", "trl", "bitsandbytes"}
    assert facts["device_memory_bytes"] > 0
    code, out, _ = call("doctor")
    assert code == 0
    assert facts["device"] in out


def test_an_unexpected_error_exits_1_and_asks_for_a_report(call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr("finetune.doctor.examine", broken)
    code, _, err = call("doctor")
    assert code == 1
    assert "unexpected RuntimeError: a fault" in err
    assert "this is a fault of finetune" in err
