"""metrics.jsonl: a line for every interval and the last update, of what was trained alone, as strict JSON."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path

import pytest
import torch
from assembly import Assembly, assemble
from rich.console import Console
from transformers import TrainerCallback

from finetune.errors import FinetuneError
from finetune.training import MemoryMeter, MetricsWriter, ProgressBar


def strict(text: str) -> dict:
    """JSON as other programs read it: NaN and infinity are errors."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def train(config: Path, *overrides: str) -> tuple[Assembly, MetricsWriter, list[dict]]:
    """A run with its metrics, and the lines that it wrote."""
    assembly = assemble(config, *overrides)
    path = config.parent / "metrics.jsonl"
    path.unlink(missing_ok=True)
    metrics = MetricsWriter(path, assembly.trainer)
    assembly.trainer.add_before_reporters(metrics)
    assembly.trainer.train()
    return assembly, metrics, [strict(line) for line in path.read_text(encoding="utf-8").splitlines()]


def trained(lines: list[dict]) -> list[dict]:
    return [line for line in lines if "loss" in line]


def test_every_interval_and_the_last_update_have_a_line(config_file):
    assembly, metrics, lines = train(config_file, "training.max_steps=5", "training.logging_steps=2")
    assert [line["step"] for line in trained(lines)] == [2, 4, 5]
    assert [line["step"] for line in lines if "eval_loss" in line] == [5]
    assert [line["loss"] for line in trained(lines)] == [
        entry["loss"] for entry in assembly.trainer.state.log_history if "loss" in entry
    ]
    assert trained(lines)[-1]["seconds"] == pytest.approx(metrics.seconds, abs=1e-3)
    assert all(line["memory_bytes"] >= 0 for line in trained(lines))


def test_tokens_per_second_of_the_lines_add_up_to_the_tokens(config_file):
    assembly, _, lines = train(config_file, "training.max_steps=6", "training.logging_steps=3")
    counted, before = 0.0, 0.0
    for line in trained(lines):
        counted += line["tokens_per_second"] * (line["seconds"] - before)
        before = line["seconds"]
    assert int(assembly.trainer.tokens_seen) == 2 * assembly.data.train.stats.tokens  # six updates: two epochs
    assert counted == pytest.approx(int(assembly.trainer.tokens_seen), rel=0.2)  # seconds have three decimals


def test_evaluating_does_not_change_what_the_training_lines_say(config_file):
    """TRL's own log reports and forgets the metrics of the steps before an evaluation."""
    fixed = ["training.max_steps=6", "training.logging_steps=3"]
    plain = train(config_file, *fixed, "data.eval=null")[2]
    evaluated = train(config_file, *fixed, "training.eval_steps=2")[2]
    assert [line["step"] for line in evaluated if "eval_loss" in line] == [2, 4, 6]
    assert all(line.keys() == {"step", "epoch", "eval_loss"} for line in evaluated if "eval_loss" in line)
    for key in ("step", "loss", "grad_norm", "learning_rate", "entropy", "mean_token_accuracy"):
        assert [line[key] for line in trained(evaluated)] == [line[key] for line in plain]


def test_seconds_are_those_of_the_training_loop_alone(config_file):
    assembly = assemble(config_file, "training.max_steps=4", "training.eval_steps=1", "training.save_steps=1")
    evaluate, save = assembly.trainer.evaluate, assembly.trainer._save_checkpoint

    def slow(call):
        def slowed(*args, **kwargs):
            time.sleep(0.2)
            return call(*args, **kwargs)

        return slowed

    assembly.trainer.evaluate, assembly.trainer._save_checkpoint = slow(evaluate), slow(save)
    metrics = MetricsWriter(config_file.parent / "metrics.jsonl", assembly.trainer)
    assembly.trainer.add_before_reporters(metrics)
    began = time.perf_counter()
    assembly.trainer.train()
    whole = time.perf_counter() - began
    assert whole > 1.6
    assert 0 < metrics.seconds < whole - 1.6


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(config_file):
    """A learning rate beyond all reason: the second update has weights that no number can hold."""
    rates = ["training.learning_rate=1e30", "training.warmup_ratio=0.0", "training.max_steps=5", "data.eval=null"]
    assembly = assemble(config_file, *rates, "training.save_steps=1")
    path = config_file.parent / "metrics.jsonl"
    metrics = MetricsWriter(path, assembly.trainer)
    assembly.trainer.add_before_reporters(metrics)
    with pytest.raises(FinetuneError) as caught:
        assembly.trainer.train()
    assert caught.value.message.startswith("the loss is nan at step 2, from ")
    assert "which is every row of the update: the update was not taken" in caught.value.message
    assert "lower training.learning_rate" in caught.value.hint
    saved = sorted(folder.name for folder in Path(assembly.trainer.args.output_dir).glob("checkpoint-*"))
    assert saved == ["checkpoint-1"]
    assert [strict(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()] == [1]


def test_without_a_terminal_every_tenth_of_the_run_has_a_line(config_file):
    assembly = assemble(config_file, "training.max_steps=20", "training.logging_steps=3", "training.eval_steps=10")
    out = io.StringIO()
    assembly.trainer.add_before_reporters(ProgressBar(Console(file=out, width=200), MemoryMeter(torch.device("cpu"))))
    assembly.trainer.train()
    lines = out.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines if "tokens/s" in line] == [
        f"step {step}/20" for step in (3, 6, 9, 12, 15, 18, 20)
    ]
    assert [line.split(":")[0] for line in lines if "held-out" in line] == ["step 10", "step 20"]


def test_on_a_terminal_the_bar_is_closed_also_after_an_interrupt(config_file):
    assembly = assemble(config_file)
    bar = ProgressBar(Console(file=io.StringIO(), force_terminal=True, width=200), MemoryMeter(torch.device("cpu")))

    class Interrupt(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            assert bar.progress is not None
            raise KeyboardInterrupt

    assembly.trainer.add_before_reporters(bar, Interrupt())
    with pytest.raises(KeyboardInterrupt):
        assembly.trainer.train()
    assert bar.progress is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can begin the peak of a process anew")
def test_the_memory_peak_is_that_of_the_tensors_alive():
    meter, model = MemoryMeter(torch.device("cpu")), torch.nn.Linear(256, 256, bias=False)
    weight, mebibyte = 256 * 256 * 4, 2**20
    with meter.follow(model, None, elements=1):
        first = torch.ones(mebibyte, dtype=torch.uint8)
        del first
        second = torch.ones(mebibyte, dtype=torch.uint8)
        view = second[10:]
        third = torch.ones(mebibyte, dtype=torch.uint8)
        del second, view, third
    assert meter.peak() == weight + 2 * mebibyte
    with meter.follow(model, None, elements=1):
        torch.ones(mebibyte, dtype=torch.uint8)
    assert meter.peak() == weight + 2 * mebibyte, "a smaller need later leaves the peak"
    assert meter.meaning == "peak bytes of the tensors alive, as torch counts them on a card"


def test_memory_is_followed_through_the_first_batches_and_larger_ones():
    meter, model = MemoryMeter(torch.device("cpu")), torch.nn.Linear(1, 1)
    followed = [meter.follow(model, None, elements) is meter._tensors for elements in (8, 8, 4, 8, 8, 9, 9)]
    assert followed == [True, True, True, True, False, True, False]


def test_optimiser_state_counts():
    meter, model = MemoryMeter(torch.device("cpu")), torch.nn.Linear(64, 64, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    with meter.follow(model, optimizer, elements=1):
        model(torch.ones(1, 64)).sum().backward()
    before = meter.peak()
    optimizer.step()
    assert meter.peak() == before + 2 * 64 * 64 * 4 + 4, "two moments and a step count"
