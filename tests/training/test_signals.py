"""Ctrl-C, SIGTERM and a closed terminal: the update is finished and saved, and the run can go on to the same end."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from finetune import pipeline
from finetune.config import load_config
from finetune.errors import Stopped
from finetune.training import ProgressBar, Watched

torch.set_num_threads(1)  # the model is tiny: on a busy machine threads would only wait for each other

KEYS = ["training.max_steps=4", "training.save_steps=null", "training.logging_steps=3", "lora.dropout=0.1"]


def train(config_file: Path, name: str, resume: bool = False) -> tuple[Path, str]:
    output, said = config_file.parent / name, io.StringIO()
    config = load_config(config_file, [*KEYS, f"output_dir={output}"])
    try:
        pipeline.train(config, Console(file=said, width=1000), resume=resume)
    finally:
        train.said = said.getvalue()
    return output, said.getvalue()


def signals_at(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Sends these to this process in the middle of the second update."""

    class Struck(ProgressBar):
        def on_substep_end(self, args, state, control, **kwargs) -> None:
            if state.global_step == 1:
                for number in numbers:
                    os.kill(os.getpid(), number)

    monkeypatch.setattr(pipeline, "ProgressBar", Struck)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_update_is_finished_and_saved(config_file, monkeypatch, name):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with monkeypatch.context() as patch, pytest.raises(Stopped) as stopped:
        signals_at(patch, getattr(signal, name))
        train(config_file, "halves")
    run = config_file.parent / "halves"
    assert stopped.value.message == f"stopped at step 2 of 4 ({name}); the last checkpoint is checkpoint-2"
    assert stopped.value.hint == f"go on with `finetune train {run / 'config.yaml'} --resume`"
    assert stopped.value.exit_code == 5
    assert f"{name}: the update is finished and saved, then the run stops; once more stops it at once" in train.said
    assert not (run / "adapter").exists()
    assert {number: signal.getsignal(number) for number in before} == before
    if name == "SIGTERM":
        whole, _ = train(config_file, "whole")
        train(config_file, "halves", resume=True)
        one, other = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (whole, run))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_second_one_stops_at_once(config_file, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stopped) as stopped:
        signals_at(patch, signal.SIGINT, signal.SIGINT)
        train(config_file, "run")
    message = "stopped at step 1 of 4 (SIGINT); no checkpoint had been written: it begins again"
    assert stopped.value.message == message


def test_a_second_one_inside_the_save_leaves_the_last_checkpoint_good(config_file, monkeypatch):
    save = Watched.save

    def struck(self):
        if self.state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        save(self)

    monkeypatch.setattr(Watched, "save", struck)
    monkeypatch.setitem(globals(), "KEYS", [*KEYS, "training.save_steps=1", "training.rehearsal=false"])
    with monkeypatch.context() as patch, pytest.raises(Stopped, match=r"the last checkpoint is checkpoint-1\n"):
        signals_at(patch, signal.SIGTERM)
        train(config_file, "run")
    assert pipeline.newest_good(config_file.parent / "run" / "checkpoints").name == "checkpoint-1"


def test_before_training_nothing_is_left(config_file, monkeypatch):
    monkeypatch.setattr(pipeline, "build_model", lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        train(config_file, "run")
    assert not (config_file.parent / "run").exists()


def test_after_training_the_run_can_be_resumed(config_file, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stopped) as stopped:
        patch.setattr(pipeline, "save_adapter", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        patch.setitem(globals(), "KEYS", [*KEYS, "training.save_steps=auto"])
        train(config_file, "run")
    assert stopped.value.message == "stopped at step 4 of 4; the last checkpoint is checkpoint-4"
