"""Compiled layers: they compute the same, go on the same to the bit, share what is compiled, tell the cold start."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from assembly import Assembly, assemble
from rich.console import Console
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from finetune import pipeline
from finetune.config import load_config
from finetune.errors import ConfigError, Stopped
from finetune.spec import describe
from finetune.spec.recomputation import layers_of
from finetune.training import ProgressBar, require_compiler

torch.set_num_threads(1)

KEYS = ["training.max_steps=3", "training.save_steps=1", "lora.dropout=0.1", "training.micro_batch_size=3"]


def train(config_file: Path, name: str, *overrides: str, resume: bool = False) -> tuple[Path, dict]:
    """A run as of a new process: nothing is compiled yet."""
    torch.compiler.reset()
    counters.clear()
    output = config_file.parent / name
    config = load_config(config_file, [*KEYS, *overrides, f"output_dir={output}"])
    return output, pipeline.train(config, Console(file=io.StringIO()), resume=resume)


def adapter(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def rehearsed(report: dict) -> int:
    return max(report["rehearsal"][f"{phase}_peak_bytes"] for phase in ("train", "eval"))


def test_stopped_and_resumed_is_the_uninterrupted_run(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plain = train(config_file, "plain")
    assert not counters["stats"]
    assert not any("compiling" in note for note in plain["notes"])
    whole, report = train(config_file, "whole", "training.compile=true")
    assert any(note.startswith("compiling the layers took") for note in report["notes"]), report["notes"]
    assert report["memory"]["measured_bytes"] == rehearsed(report) == pytest.approx(rehearsed(plain), rel=0.005)

    class Interrupted(ProgressBar):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            if state.global_step == 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(pipeline, "ProgressBar", Interrupted)
        train(config_file, "halves", "training.compile=true")
    halves, _ = train(config_file, "halves", "training.compile=true", resume=True)
    assert counters["stats"], "the rest was compiled too"
    assert losses(halves) == losses(whole)
    assert adapter(halves).keys() == adapter(whole).keys()
    assert all(torch.equal(value, adapter(whole)[name]) for name, value in adapter(halves).items())


def test_layers_share_what_is_compiled_and_compute_the_same(config_file: Path) -> None:
    torch.compiler.reset()
    assembly = assemble(config_file, "training.compile=true", "data.eval=null", "training.gradient_checkpointing=1")
    assert len(layers_of(assembly.model)) == 2
    batch = assembly.data.collator(assembly.data.train_dataset.to_list()[:2])
    counters.clear()
    expected = gradients(assembly, batch)
    assert not counters["stats"], "outside a training pass layers are as they were"
    with assembly.trainer.compiled.training():
        found = gradients(assembly, batch)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert len(found) == 1 + 2 * 2 * 4, "of two layers with four adapters each"
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)


def gradients(assembly: Assembly, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of every trained weight, and the loss."""
    model = assembly.model
    model.zero_grad()
    loss = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss
    loss.backward()
    trained = {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}
    return {"loss": loss.detach(), **trained}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.rehearsal=false", "needs training.rehearsal, where layers are compiled and measured"),
        ("training.feed_forward_chunk=8", "does not go with training.feed_forward_chunk: set that to null"),
        ("training.activation_offloading=true", "does not go with training.activation_offloading: set that to false"),
        ("training.method=dpo", "is for sft: training.method=dpo runs the model in too many ways to wait for each"),
    ],
)
def test_what_does_not_go_together_is_refused(config_file: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(config_file, ["training.compile=true", override])
    assert f"training.compile=true {message}" in str(caught.value)


def test_a_machine_without_a_compiler(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    require_compiler(describe(load_config(config_file)))
    with pytest.raises(ConfigError) as caught:
        require_compiler(describe(load_config(config_file, ["training.compile=true"])))
    assert caught.value.message == "training.compile=true needs a C++ compiler, and there is none"
    assert caught.value.hint == "install g++, or set training.compile=false"
