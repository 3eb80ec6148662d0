"""A run that cannot start, or ends before its time, says why and leaves nothing half-made."""

from __future__ import annotations

import importlib.util
import io

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from finetune import pipeline
from finetune.config import load_config
from finetune.errors import ConfigError, DataError, DoesNotFit, FinetuneError
from finetune.training import ProgressBar

torch.set_num_threads(1)  # the model is tiny: on a busy machine threads would only wait for each other


def test_a_reporter_that_is_not_installed_is_refused_before_anything_is_loaded(tmp_path, config_file):
    absent = [name for name in ("wandb", "mlflow", "trackio") if importlib.util.find_spec(name) is None]
    if not absent:
        pytest.skip("every reporter is installed")
    config = load_config(config_file, [f"training.report_to=[{absent[0]}]"])
    with pytest.raises(ConfigError) as caught:
        pipeline.train(config, Console(file=io.StringIO()))
    assert caught.value.message == f"training.report_to: {absent[0]} is not installed"
    assert caught.value.hint == f"pip install 'finetune[{absent[0]}]', or leave it out"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("existed", [False, True])
def test_a_dry_run_leaves_nothing(tmp_path, config_file, existed):
    output = tmp_path / "runs" / "of" / "today"
    if existed:
        output.mkdir(parents=True)
    before = {entry: entry.stat().st_ino for entry in tmp_path.rglob("*")}
    config = load_config(config_file, [f"output_dir={output}"])
    result = pipeline.train(config, Console(file=io.StringIO()), dry_run=True)
    assert result["dry_run"] is True
    assert result["fits"] is True
    assert {entry: entry.stat().st_ino for entry in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("existed", [False, True])
def test_a_failing_start_leaves_nothing(tmp_path, config_file, existed):
    output = tmp_path / "runs" / "today"
    if existed:
        output.mkdir(parents=True)
    (tmp_path / "empty.jsonl").touch()
    config = load_config(config_file, [f"output_dir={output}", f"data.eval={tmp_path / 'empty.jsonl'}"])
    with pytest.raises(DataError, match="the file is empty"):
        pipeline.train(config, Console(file=io.StringIO()))
    assert output.exists() == existed
    assert (tmp_path / "runs").exists() == existed
    assert not existed or not any(output.iterdir())


def test_a_run_stopped_before_its_first_step_leaves_nothing(tmp_path, config_file, monkeypatch):
    """Ctrl-C while the untrained model is evaluated, which of a large one takes minutes."""

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_look", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pipeline.train(load_config(config_file), Console(file=io.StringIO()))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("step", [0, 1])
def test_out_of_memory_is_a_message(tmp_path, config_file, monkeypatch, step):
    """While the untrained model is evaluated, and in the second update of the run."""

    class Full(ProgressBar):
        def on_step_begin(self, args, state, control, **kwargs):
            exhaust(state.global_step)

    def exhaust(now: int) -> None:
        if now == step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has ...")

    if step == 0:
        monkeypatch.setattr(pipeline.Watched, "evaluate", lambda self: exhaust(0))
    monkeypatch.setattr(pipeline, "ProgressBar", Full)
    with pytest.raises(DoesNotFit) as caught:
        pipeline.train(load_config(config_file), Console(file=io.StringIO()))
    assert caught.value.message == f"out of memory after update {step}: CUDA out of memory. Tried to allocate 2 GiB."
    assert caught.value.hint == "see what fits with `finetune preflight CONFIG --gpu 24GiB`"
    assert (tmp_path / "run").exists() == (step > 0)


def test_a_directory_that_others_use_meanwhile_stays(tmp_path, config_file, monkeypatch):
    """Of the directories that a failed start made, one that has become another run's parent is left."""
    config = load_config(config_file, [f"output_dir={tmp_path / 'runs' / 'mine'}"])

    def meanwhile(spec):
        (tmp_path / "runs" / "theirs").mkdir()
        raise DataError("no rows")

    monkeypatch.setattr(pipeline, "load_data", meanwhile)
    with pytest.raises(DataError):
        pipeline.train(config, Console(file=io.StringIO()))
    assert [entry.name for entry in (tmp_path / "runs").iterdir()] == ["theirs"]


def test_a_run_whose_loss_is_no_number_ends_with_a_word_and_no_adapter(tmp_path, config_file):
    rates = ["training.learning_rate=1e30", "training.warmup_ratio=0.0", "data.eval=null", "training.save_steps=1"]
    config = load_config(config_file, [*rates, "training.max_steps=5"])
    with pytest.raises(FinetuneError, match=r"the loss is nan at step \d"):
        pipeline.train(config, Console(file=io.StringIO()))
    run = tmp_path / "run"
    assert not (run / "adapter").exists()
    assert not (run / "report.json").exists()
    weights = load_file(pipeline.newest_good(run / "checkpoints") / "adapter_model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
