"""A run whose disk fills or fails waits, or stops in words; checkpoints come by the clock, and the best one stays."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from rich.console import Console

from finetune import pipeline
from finetune.config import load_config
from finetune.errors import FinetuneError, Stopped
from finetune.training import ProgressBar, Watched, keeper

torch.set_num_threads(1)  # the model is tiny: on a busy machine threads would only wait for each other


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(keeper, "PATIENCE", 0.01)
    monkeypatch.setattr(keeper, "LOOK_EVERY", 0.0)


def train(config_file: Path, *keys: str) -> tuple[Path, str]:
    said = io.StringIO()
    quick = ["training.max_steps=3", "training.rehearsal=false", "training.sample_answers=0", "data.eval=null"]
    config = load_config(config_file, [*quick, *keys])
    try:
        pipeline.train(config, Console(file=said, width=1000))
    finally:
        train.said = said.getvalue()
    return Path(config.output_dir), said.getvalue()


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("*"))


def room(monkeypatch: pytest.MonkeyPatch, *free: int) -> list[int]:
    """What the disk has free when asked, one after another; the last stays."""
    asked = []

    def free_now(self):
        asked.append(free[min(len(asked), len(free) - 1)])
        return asked[-1]

    monkeypatch.setattr(keeper.Keeper, "_free", free_now)
    return asked


def test_a_filling_disk_is_waited_for_before_it_fails(config_file, monkeypatch):
    room(monkeypatch, 2**20, 2**20, 2**20, 2**20, 2**40)
    run, said = train(config_file, "training.save_steps=3")
    assert f"paused: no room for checkpoint-1 in {run / 'checkpoints'} (1 MiB are free, 64 MiB are needed)" in said
    assert "there is room again: the run goes on" in said
    assert names(run) == ["checkpoint-1", "checkpoint-3"]


def test_a_full_disk_is_waited_for(config_file, monkeypatch):
    failures = [OSError(errno.ENOSPC, "No space left on device")] * 3
    save = Watched.save

    def full(self):
        if failures:
            raise failures.pop()
        save(self)

    monkeypatch.setattr(Watched, "save", full)
    run, said = train(config_file, "training.save_steps=3")
    assert said.count("paused: no room for checkpoint-3") == 3
    assert "(No space left on device); free some and the run goes on" in said
    assert names(run) == ["checkpoint-3"]


def test_a_run_that_waits_can_be_stopped(config_file, monkeypatch):
    room(monkeypatch, 2**20)
    monkeypatch.setattr(keeper.time, "sleep", lambda seconds: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped) as stopped:
        train(config_file, "training.save_steps=3")
    assert stopped.value.message == (
        "checkpoint-1 could not be written (1 MiB are free, 64 MiB are needed); there is no good checkpoint"
    )
    assert stopped.value.hint.startswith("see to the disk and its permissions, then go on with `finetune train ")


@pytest.mark.parametrize("times", [1, 2])
def test_another_fault_is_tried_once_more(config_file, monkeypatch, times):
    failures = [OSError(errno.EIO, "Input/output error")] * times
    save = Watched.save

    def faulty(self):
        if self.state.global_step == 2 and failures:
            raise failures.pop()
        save(self)

    monkeypatch.setattr(Watched, "save", faulty)
    if times == 1:
        assert names(train(config_file, "training.save_steps=1")[0]) == ["checkpoint-2", "checkpoint-3"]
        return
    with pytest.raises(Stopped) as stopped:
        train(config_file, "training.save_steps=1")
    assert stopped.value.message == (
        "checkpoint-2 could not be written (Input/output error); the last good checkpoint is checkpoint-1"
    )
    assert stopped.value.exit_code == 5


def test_the_adapter_at_the_end_is_waited_for_too(config_file, monkeypatch):
    failures, save = [OSError(errno.ENOSPC, "No space left on device")], pipeline.save_adapter

    def full(*arguments):
        if failures:
            raise failures.pop()
        save(*arguments)

    monkeypatch.setattr(pipeline, "save_adapter", full)
    run, said = train(config_file)
    assert "paused: no room for the adapter in " in said
    assert (run / "adapter" / "adapter_model.safetensors").exists()


def test_a_file_of_the_run_that_cannot_be_written_ends_it_in_words(config_file, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error", str(config_file.parent / "run" / "metrics.jsonl"))

    monkeypatch.setattr(pipeline.MetricsWriter, "on_log", fail)
    with pytest.raises(Stopped) as stopped:
        train(config_file)
    file = config_file.parent / "run" / "metrics.jsonl"
    assert stopped.value.message == f"{file} could not be written or read (Input/output error)"


def test_by_the_clock(config_file, monkeypatch):
    """Each update takes a minute: at ten minutes between saves one in ten is saved, and the last."""
    now = [0.0]
    monkeypatch.setattr(keeper.time, "monotonic", lambda: now[0])

    class Slow(ProgressBar):
        def on_step_begin(self, args, state, control, **kwargs) -> None:
            now[0] += 60.0

    monkeypatch.setattr(pipeline, "ProgressBar", Slow)
    run, _ = train(config_file, "training.max_steps=25", "training.save_total_limit=9", "training.epochs=9")
    assert names(run) == ["checkpoint-10", "checkpoint-20", "checkpoint-25"]


def test_saving_that_is_slow_comes_more_seldom(config_file, monkeypatch):
    """Twenty seconds are one in a hundred of two thousand."""
    now, save = [0.0], Watched.save

    class Slow(ProgressBar):
        def on_step_begin(self, args, state, control, **kwargs) -> None:
            now[0] += 300.0

    def slow(self):
        now[0] += 20.0
        save(self)

    monkeypatch.setattr(keeper.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pipeline, "ProgressBar", Slow)
    monkeypatch.setattr(Watched, "save", slow)
    run, _ = train(config_file, "training.max_steps=10", "training.save_total_limit=9")
    assert names(run) == ["checkpoint-10", "checkpoint-2", "checkpoint-9"]


def test_no_checkpoint_where_none_is_asked_for(config_file):
    assert names(train(config_file, "training.save_steps=null")[0]) == []


def test_the_best_held_out_figure_is_kept(config_file, monkeypatch):
    losses = iter([9.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    monkeypatch.setattr(Watched, "held_out", lambda self, rows: {"loss": next(losses)}, raising=False)
    from finetune.training.supervised import SupervisedTrainer

    monkeypatch.setattr(SupervisedTrainer, "held_out", lambda self, rows: {"loss": next(losses)})
    eval_too = f"data.eval={config_file.parent / 'held_out.jsonl'}"
    keys = ["training.eval_steps=1", "training.max_steps=5", "training.save_total_limit=1"]
    run, _ = train(config_file, eval_too, *keys)
    assert names(run) == ["checkpoint-1", "checkpoint-5"]
    notes = json.loads((run / "report.json").read_text(encoding="utf-8"))["notes"]
    assert "the best held-out loss was 2.0000 at update 1: checkpoints/checkpoint-1" in notes


def test_an_adapter_without_numbers_is_not_saved(config_file, monkeypatch):
    class Spoilt(ProgressBar):
        def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
            if state.global_step == 2:
                next(p for p in model.parameters() if p.requires_grad).data.fill_(float("nan"))

    monkeypatch.setattr(pipeline, "ProgressBar", Spoilt)
    with pytest.raises(FinetuneError) as caught:
        train(config_file, "training.save_steps=1")
    assert caught.value.message == "the adapter holds no numbers any more at step 2"
    assert "the last checkpoint is good" in caught.value.hint
    assert names(config_file.parent / "run") == ["checkpoint-1"]
