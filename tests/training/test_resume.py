"""A run that was stopped and resumed is the run that was not: the adapter bit for bit, and every number reported."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from finetune import pipeline
from finetune.config import load_config
from finetune.errors import RunDirError, Stopped
from finetune.report import inputs
from finetune.report.receipt import read_receipt
from finetune.training import ProgressBar

torch.set_num_threads(1)  # the model is tiny: on a busy machine threads would only wait for each other

KEYS = [
    "training.max_steps=7", "training.save_steps=2", "training.logging_steps=3", "training.eval_steps=4",
    "lora.dropout=0.1", "training.weight_decay=0.01", "data.eval_fraction=0.25", "data.eval=null",
]  # fmt: skip


def train(
    config_file: Path, name: str, *overrides: str, said: io.StringIO | None = None, **options: bool
) -> tuple[Path, dict]:
    """A run of its own directory, with the keys that could make a resumed run differ."""
    output = config_file.parent / name
    config = load_config(config_file, [*KEYS, *overrides, f"output_dir={output}"])
    return output, pipeline.train(config, Console(file=said or io.StringIO(), width=1000), **options)


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int | None) -> None:
    """Has Ctrl-C pressed at the end of an update, before its checkpoint is written."""

    class Interrupted(ProgressBar):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            if state.global_step == step:
                raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "ProgressBar", Interrupted if step else ProgressBar)


def metrics(run: Path) -> list[dict]:
    """The lines of metrics.jsonl without what depends on the clock and the machine."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    measured = ("seconds", "tokens_per_second", "memory_bytes")
    return [{key: value for key, value in row.items() if key not in measured} for row in rows]


def same_adapters(left: Path, right: Path) -> bool:
    one, other = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (left, right))
    same_types = all(one[name].dtype == other[name].dtype for name in one)
    return one.keys() == other.keys() and same_types and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["lora.dtype=bfloat16"],
        ["lora.use_dora=true", "data.packing=true", "training.loss_kernel=full_logits"],
    ],
    ids=lambda overrides: " ".join(overrides) or "default",
)
def test_stopped_and_resumed_is_the_uninterrupted_run(config_file, monkeypatch, overrides):
    whole, expected = train(config_file, "whole", *overrides)
    stop_at(monkeypatch, 5)
    with pytest.raises(Stopped) as caught:
        train(config_file, "halves", *overrides)
    assert caught.value.message == "stopped at step 5 of 7; the last checkpoint is checkpoint-4"
    run = config_file.parent / "halves"
    assert caught.value.hint == f"go on with `finetune train {run / 'config.yaml'} --resume`"
    assert caught.value.exit_code == 5
    halves = config_file.parent / "halves"
    assert not (halves / "adapter").exists()
    assert not (halves / "report.json").exists()

    stop_at(monkeypatch, None)
    _, report = train(config_file, "halves", *overrides, resume=True)
    assert same_adapters(whole, halves)
    assert metrics(halves) == metrics(whole)
    for key in ("rows", "tokens", "trained_tokens", "steps", "epochs", "loss"):
        assert report["train"][key] == expected["train"][key]
    assert report["eval_loss"] == expected["eval_loss"]
    assert report["samples"] == expected["samples"]


def test_seconds_of_a_resumed_run_are_those_of_its_updates(config_file, monkeypatch):
    """Those up to the checkpoint and those after it, as the lines of metrics.jsonl have them."""
    stop_at(monkeypatch, 5)
    with pytest.raises(Stopped):
        train(config_file, "run")
    stop_at(monkeypatch, None)
    run, report = train(config_file, "run", resume=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = [row["seconds"] for row in rows if "seconds" in row]
    assert seconds == sorted(seconds)
    assert report["train"]["seconds"] == pytest.approx(seconds[-1], abs=1e-3)
    state = json.loads((run / "checkpoints" / "checkpoint-7" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["stateful_callbacks"]["MetricsWriter"]["attributes"]["rows_seen"] == report["train"]["rows"]


def test_only_the_report_is_made_where_only_that_is_missing(config_file):
    """Stopped after the last checkpoint: no update is left, and nothing is trained or lost."""
    run, expected = train(config_file, "run")
    before = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    (run / "report.json").unlink()
    _, report = train(config_file, "run", resume=True)
    assert (run / "adapter" / "adapter_model.safetensors").read_bytes() == before
    assert {key: report[key] for key in ("train", "eval_loss", "samples")} == {
        key: expected[key] for key in ("train", "eval_loss", "samples")
    }


def test_a_run_without_a_checkpoint_begins_again(config_file, monkeypatch):
    whole, expected = train(config_file, "whole")
    stop_at(monkeypatch, 1)
    with pytest.raises(Stopped) as stopped:
        train(config_file, "halves")
    assert stopped.value.message == "stopped at step 1 of 7; no checkpoint had been written: it begins again"
    stop_at(monkeypatch, None)
    said = io.StringIO()
    halves, report = train(config_file, "halves", resume=True, said=said)
    assert f"{halves} holds no good checkpoint: the run begins again" in said.getvalue()
    assert same_adapters(whole, halves)
    assert metrics(halves) == metrics(whole)
    assert report["eval_loss"] == expected["eval_loss"]


def test_a_run_killed_right_after_its_first_evaluation_has_it_once(config_file, monkeypatch):
    def killed(self, name, value):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipeline.RunDir, "_undo", lambda self: self.lock.release())  # nobody tidies up after SIGKILL
        patch.setattr(pipeline.RunDir, "write_json", lambda self, name, value: name == "before.json" and killed(*"abc"))
        train(config_file, "run")
    run, _ = train(config_file, "run", resume=True)
    assert [row["step"] for row in metrics(run)].count(0) == 1


def test_what_has_changed_is_named_and_refused(config_file, monkeypatch):
    stop_at(monkeypatch, 3)
    with pytest.raises(Stopped):
        train(config_file, "run")
    stop_at(monkeypatch, None)
    kept = {path: path.read_bytes() for path in (config_file.parent / "run").rglob("*") if path.is_file()}

    with pytest.raises(RunDirError) as refused:
        train(config_file, "run", "training.learning_rate=0.02", "lora.r=8", resume=True)
    assert "what the run is made of has changed since it began: " in refused.value.message
    assert "lora.r was 4, is 8" in refused.value.message
    assert "training.learning_rate was 0.01, is 0.02" in refused.value.message
    assert "seed" not in refused.value.message
    assert "`--allow-drift`" in refused.value.hint
    assert refused.value.exit_code == 2

    rows = config_file.parent / "rows.jsonl"
    before = rows.read_text(encoding="utf-8")
    rows.write_text(before.replace("Say 3 words", "Say 3 names"), encoding="utf-8")
    with pytest.raises(RunDirError, match=r"data\.train\.\S+rows\.jsonl was \w{12}, is \w{12}; rows\.(train|eval) was"):
        train(config_file, "run", resume=True)
    rows.write_text(before, encoding="utf-8")

    monkeypatch.setattr(inputs, "LIBRARIES", (*inputs.LIBRARIES[1:], "pip"))
    with pytest.raises(RunDirError, match=r"libraries\.torch was [\w.+]+, is absent; libraries\.pip was absent, is"):
        train(config_file, "run", resume=True)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in kept} == kept  # a refusal changes nothing

    with pytest.raises(RunDirError, match=r"absent is not a run directory: it has no config\.yaml"):
        train(config_file, "absent", resume=True)
    assert not (config_file.parent / "absent").exists()


def test_drift_that_is_allowed_is_said_and_stands_in_the_receipt(config_file, monkeypatch):
    stop_at(monkeypatch, 3)
    with pytest.raises(Stopped):
        train(config_file, "run")
    stop_at(monkeypatch, None)
    rows = config_file.parent / "rows.jsonl"
    rows.write_text(rows.read_text(encoding="utf-8").replace("Say 3 words", "Say 3 names"), encoding="utf-8")
    said = io.StringIO()
    run, _ = train(config_file, "run", "training.learning_rate=0.02", resume=True, allow_drift=True, said=said)
    assert "drift allowed: training.learning_rate was 0.01, is 0.02" in said.getvalue()
    assert "drift allowed: data.train." in said.getvalue()
    drift = read_receipt(run)["drift"]
    assert [entry["from_step"] for entry in drift] == [2, 2]
    assert "training.learning_rate was 0.01, is 0.02" in drift[0]["changed"]
    assert "learning_rate: 0.02" in (run / "config.yaml").read_text(encoding="utf-8")


def test_a_finished_run_is_left_as_it_is(config_file):
    """Whoever starts a run again until it is done is told so, and a page that is missing comes back."""
    run, report = train(config_file, "run", "training.max_steps=2")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    (run / "report.html").unlink()
    said = io.StringIO()
    assert train(config_file, "run", "training.max_steps=2", resume=True, said=said)[1] == report
    assert f"{run}: the run is finished; nothing is left to do" in said.getvalue()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"} == before
    with pytest.raises(RunDirError, match=r"has changed since it began: training\.max_steps was 2, is 9"):
        train(config_file, "run", "training.max_steps=9", resume=True)
