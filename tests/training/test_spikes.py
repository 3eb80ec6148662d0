"""Losses that stand out are flagged with their rows; falling, noisy and constant ones are not."""

from __future__ import annotations

import io
import json
import math
import random
from pathlib import Path

import pytest
from assembly import Assembly, assemble
from rich.console import Console

from finetune.training import MetricsWriter
from finetune.training.spikes import LEAST, Spikes


def flagged(losses: list[float]) -> list[int]:
    """Places of the losses that stand out."""
    spikes = Spikes()
    return [at for at, loss in enumerate(losses) if spikes.add(loss)]


def falling(count: int, seed: int, noise: float) -> list[float]:
    """Losses as a run's: from 4 to 1.5, each off by a lognormal factor."""
    drawn = random.Random(seed)
    return [(1.5 + 2.5 * math.exp(-at / 60)) * math.exp(noise * drawn.gauss(0, 1)) for at in range(count)]


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1, 0.3])
def test_no_loss_of_an_ordinary_run_stands_out(noise):
    found = sum(len(flagged(falling(500, seed, noise))) for seed in range(20))
    assert found <= 4, "of 10,000; a lognormal tail is longer than the normal one"


def test_constant_losses_are_no_spikes_nor_is_rounding():
    assert flagged([0.693] * 200) == []
    assert flagged([0.693 + 1e-4 * (at % 7) for at in range(200)]) == []
    assert flagged([0.0] * 100) == []


def test_a_spike_is_found_and_hides_no_other():
    losses = falling(200, 3, 0.05)
    for at in (60, 61, 150):
        losses[at] *= 2.5
    assert flagged(losses) == [60, 61, 150]


def test_the_first_losses_are_compared_with_nothing():
    losses = [1.0] * (LEAST - 1) + [50.0]
    assert flagged(losses) == []
    assert flagged([1.0] * LEAST + [50.0]) == [LEAST]


def test_a_loss_that_is_no_number_is_not_one_of_those_compared_with():
    spikes = Spikes([1.0] * LEAST)
    assert not spikes.add(math.nan)
    assert math.nan not in spikes.losses and spikes.add(50.0)


KEYS = ["training.max_steps=30", "data.eval=null", "training.learning_rate=1e-30", "training.noise_scale=false"]
KEYS += ["training.micro_batch_size=2", "training.gradient_accumulation_steps=3", "training.epochs=100"]


def run(config: Path, at: int | None, *overrides: str, resume: Path | None = None) -> tuple[Assembly, list[dict]]:
    """A run whose loss is fourfold in the second micro batch of one update."""
    assembly = assemble(config, *KEYS, *overrides)
    trainer, pass_over = assembly.trainer, assembly.trainer.pass_over

    def louder(model, inputs, count):
        second = len(trainer.update.micro_batches) == 2
        return pass_over(model, inputs, count) * (8 if second and trainer.state.global_step + 1 == at else 1)

    trainer.pass_over = louder
    trainer.guards.tell(Console(file=io.StringIO()), config.parent, list)
    trainer.add_before_reporters(MetricsWriter(config.parent / "metrics.jsonl", trainer))
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return assembly, read(config.parent / "metrics.jsonl")


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def test_a_run_flags_the_update_names_its_rows_and_goes_on_alike_when_resumed(config_file, rows_file):
    assembly, logged = run(config_file, 26, "training.save_steps=24")
    assert [line["step"] for line in logged if line.get("spike")] == [26]
    (line,) = read(config_file.parent / "spikes.jsonl")
    assert line["step"] == 26 and len(line["micro_batches"]) == 3
    losses = [batch["loss"] for batch in line["micro_batches"]]
    assert losses == sorted(losses, reverse=True) and losses[0] > 4 * losses[1]
    assert all(len(batch["rows"]) == 2 for batch in line["micro_batches"])
    assert all(place.startswith(f"{rows_file} line ") for batch in line["micro_batches"] for place in batch["rows"])
    assert len({place for batch in line["micro_batches"] for place in batch["rows"]}) == 6
    assert "1 losses stand out of those before them (spikes.jsonl)" in assembly.trainer.last_notes()

    again, logged = run(config_file, 26, resume=Path(assembly.trainer.args.output_dir) / "checkpoint-24")
    assert [line["step"] for line in logged if line.get("spike")] == [26]
    assert read(config_file.parent / "spikes.jsonl") == [line]
    assert again.trainer.guards.to_json() == assembly.trainer.guards.to_json()


def test_an_ordinary_run_flags_nothing(config_file):
    assembly, logged = run(config_file, None, "training.learning_rate=0.01", "training.max_steps=60")
    assert not any(line.get("spike") for line in logged)
    assert len(assembly.trainer.guards._history.losses) == 50
    assert not (config_file.parent / "spikes.jsonl").exists()
