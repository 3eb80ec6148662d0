"""A receipt is checked against what is here; a run is proven to resume to the bit, or the operation named that does
not."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from assembly import assemble
from rich.console import Console
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from finetune import pipeline, verify
from finetune.cli.main import app
from finetune.config import load_config
from finetune.errors import RunDirError
from finetune.report.receipt import read_receipt
from finetune.training import first_difference

torch.set_num_threads(1)  # the model is tiny: on a busy machine threads would only wait for each other


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model) -> Path:
    """A run of two updates with a checkpoint, beside its rows."""
    folder = tmp_path_factory.mktemp("verify")
    rows = [{"prompt": f"Say {n}.", "completion": f"{n} and end"} for n in range(12)]
    for name, part in {"rows": rows[:8], "held_out": rows[8:]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    (folder / "config.yaml").write_text(
        f"""\
model: {{name_or_path: {tiny_model}}}
quantization: {{compute_dtype: float32}}
lora: {{r: 4, alpha: 8, dropout: 0.1}}
data: {{train: {folder / "rows.jsonl"}, eval: {folder / "held_out.jsonl"}, max_length: 64}}
training: {{max_steps: 2, micro_batch_size: 2, gradient_accumulation_steps: 1, optimizer: adamw_torch,
  sample_answers: 0, rehearsal: false}}
output_dir: {folder / "run"}
""",
        encoding="utf-8",
    )
    train(folder / "config.yaml", [])
    return folder / "run"


def train(config: Path, arguments: list[str]) -> None:
    """`finetune train` in this process."""
    resume = "--resume" in arguments
    loaded = load_config(config, [argument for argument in arguments if argument != "--resume"])
    pipeline.train(loaded, Console(file=io.StringIO()), resume=resume)


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy to spoil."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def states(run: Path) -> dict[str, str]:
    return {check["name"]: check["state"] for check in verify.verify(run)["checks"]}


def details(run: Path) -> str:
    return "; ".join(check["detail"] for check in verify.verify(run)["checks"] if check["state"] != "ok")


def test_a_receipt_names_all_that_a_run_is_made_of(finished):
    receipt = read_receipt(finished)
    assert receipt.keys() == {
        "format", "drift", "settings", "code", "libraries", "device", "data", "rows", "template", "tokenizer", "model",
        "config", "adapter", "seal",
    }  # fmt: skip
    assert receipt["settings"]["training"]["seed"] == 42
    assert receipt["settings"]["model"]["trust_remote_code"] is False
    assert receipt["libraries"]["torch"] == torch.__version__
    assert receipt["model"]["files"].keys() >= {"config.json", "model.safetensors"}
    assert receipt["adapter"].keys() >= {"adapter_model.safetensors", "adapter_config.json", "chat_template.jinja"}
    assert verify.verify(finished)["good"] is True
    assert set(states(finished).values()) == {"ok"}


def test_the_command_says_what_is_other(run):
    result = CliRunner().invoke(app, ["verify", str(run)])
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "good")
    weights = run / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    result = CliRunner().invoke(app, ["verify", str(run)])
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (2, "not as the receipt says")
    assert "changed  adapter/adapter_model.safetensors" in result.stdout


def test_adapter_configuration_and_checkpoint(run):
    (run / "adapter" / "tokenizer_config.json").unlink()
    (run / "adapter" / "extra.py").write_text("1", encoding="utf-8")
    (run / "config.yaml").write_text((run / "config.yaml").read_text(encoding="utf-8") + "\n", encoding="utf-8")
    (run / "checkpoints" / "checkpoint-2" / "training_state.json").write_text("{}", encoding="utf-8")
    found = states(run)
    changed = {name for name, state in found.items() if state == "changed"}
    assert changed == {
        "adapter/tokenizer_config.json", "adapter/extra.py", "config.yaml", "checkpoints/checkpoint-2",
    }  # fmt: skip
    assert "it is gone" in details(run)
    assert "the receipt knows no such file" in details(run)


def test_data_that_changed_and_data_that_is_not_here(run, finished):
    rows = finished.parent / "rows.jsonl"
    before = rows.read_text(encoding="utf-8")
    try:
        rows.write_text(before.replace("Say 3", "Say 9"), encoding="utf-8")
        found = states(run)
        assert (found["data"], found["rows"], found["model"]) == ("changed", "changed", "ok")
        rows.unlink()
        assert states(run)["model and data"] == "absent"
        assert verify.verify(run)["good"] is True
    finally:
        rows.write_text(before, encoding="utf-8")


def test_another_machine_is_said_and_is_no_fault(run, monkeypatch):
    monkeypatch.setattr("finetune.report.inputs.platform.python_version", lambda: "3.99.0")
    found = verify.verify(run)
    assert found["good"] is True
    said = next(check for check in found["checks"] if check["name"] == "libraries")
    assert said["state"] == "other"
    assert said["detail"].endswith("is 3.99.0")


def test_a_receipt_that_was_changed_is_refused(run):
    text = (run / "receipt.json").read_text(encoding="utf-8")
    (run / "receipt.json").write_text(text.replace('"seed": 42', '"seed": 43'), encoding="utf-8")
    with pytest.raises(RunDirError, match=r"receipt\.json: its seal does not match what it says"):
        verify.verify(run)
    (run / "receipt.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunDirError, match=r"receipt\.json: it cannot be read"):
        verify.verify(run)
    (run / "receipt.json").unlink()
    with pytest.raises(RunDirError, match=r"run has no receipt\.json"):
        verify.verify(run)


def test_a_run_is_proven_to_resume_to_the_bit(finished):
    assert verify.verify_resume(finished, train) == {"exact": True, "updates": 4, "differs": [], "cause": None}


def test_a_run_that_does_not_is_found_out(finished):
    """The resumed half starts from an adapter with one other bit."""

    def faulty(config: Path, arguments: list[str]) -> None:
        if "--resume" in arguments:
            shutil.rmtree(config.parent / "checkpoints")
        train(config, arguments)
        if "--resume" in arguments:
            file = config.parent / "adapter" / "adapter_model.safetensors"
            tensors = load_file(file)
            name = min(tensors)
            tensors[name][0, 0] += 1e-6
            save_file(tensors, file)

    found = verify.verify_resume(finished, faulty)
    assert found["exact"] is False
    assert len(found["differs"]) == 1
    assert found["differs"][0].startswith("adapter/adapter_model.safetensors: base_model.model.")
    assert found["cause"] is None  # each operation is exact: the fault is elsewhere


def test_a_run_that_fails_is_said_in_its_words(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("seed: 42", "seed: -1"), encoding="utf-8")
    with pytest.raises(RunDirError, match=r"training\.seed"):
        verify.verify_resume(tmp_path / "run")


def test_the_operation_that_is_not_deterministic_is_named(config_file):
    assembly = assemble(config_file, "lora.dropout=0.1")
    assert first_difference(assembly.trainer) is None
    layer = assembly.model.base_model.model.model.layers[1].mlp
    own = torch.Generator()

    def shake(module, inputs, output):
        own.seed()
        return output + torch.randn(output.shape, generator=own)

    layer.register_forward_hook(shake)
    found = first_difference(assembly.trainer)
    assert found["operation"].startswith("aten.randn") or found["operation"].startswith("aten.normal")
    assert found["module"].endswith("layers.1.mlp") or found["module"].endswith("layers.1")
