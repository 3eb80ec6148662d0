"""The gradient noise scale of a run: the figures are those computed by hand, and the run is bitwise the same."""

from __future__ import annotations

import json

import pytest
import torch
from assembly import Assembly, assemble

from finetune.batching.noise_scale import unbiased_pair
from finetune.spec.loss import IGNORED
from finetune.training import MetricsWriter

FOUR = ["training.micro_batch_size=2", "training.gradient_accumulation_steps=4", "data.eval=null"]
STILL = ["training.learning_rate=1e-30", "training.max_grad_norm=1e-3"]
"""The adapter stays where it is; gradients are clipped, which the figures must not show."""


def trained(config_file, *overrides: str) -> Assembly:
    """An assembled run after its training."""
    assembly = assemble(config_file, *overrides)
    assembly.trainer.train()
    return assembly


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.loss_kernel=full_logits", "lora.dropout=0.1"],
        ["data.packing=true", "training.micro_batch_size=1"],
        ["quantization.compute_dtype=bfloat16", "lora.dtype=bfloat16"],
    ],
    ids=" ".join,
)
def test_a_run_that_measures_it_is_bitwise_the_run_that_does_not(config_file, overrides):
    fixed = [*FOUR, "training.max_steps=4", *overrides]
    runs = [trained(config_file, *fixed, f"training.noise_scale={on}") for on in ("true", "false")]
    on, off = (run.adapter() for run in runs)
    assert all(torch.equal(on[name], off[name]) for name in on)
    logs = [[entry.get("loss") for entry in run.trainer.state.log_history] for run in runs]
    assert logs[0] == logs[1]
    assert runs[0].trainer.noise.estimate() is not None
    assert runs[1].trainer.noise is None


def by_hand(assembly: Assembly, micro: int) -> list[tuple[float, float]]:
    """tr Σ and |G|² of every update, from gradients of each micro batch and of all its rows, computed apart."""
    rows, model = assembly.data.train_dataset.to_list(), assembly.model
    order = list(torch.randperm(len(rows), generator=torch.Generator().manual_seed(assembly.spec.config.training.seed)))
    batches = [[rows[i] for i in order[at : at + micro]] for at in range(0, len(rows), micro)]
    passes = assembly.spec.config.training.gradient_accumulation_steps
    found = []
    for first in range(0, len(batches), passes):
        gradients, counts = [], []
        for batch in batches[first : first + passes]:
            inputs = assembly.data.collator(batch)
            counts.append(float((inputs["labels"] != IGNORED).sum()))
            model.zero_grad()
            logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
            target = inputs["labels"][:, 1:].reshape(-1)
            torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), target, ignore_index=IGNORED).backward()
            gradients.append(torch.cat([tensor.flatten() for tensor in assembly.gradients().values()]).double())
        weights = torch.tensor(counts, dtype=torch.float64)
        whole = (torch.stack(gradients) * (weights / weights.sum())[:, None]).sum(0)
        squares = torch.stack([gradient.square().sum() for gradient in gradients])
        found.append(tuple(float(value) for value in unbiased_pair(weights, squares, whole.square().sum())))
    return found


def test_the_sums_are_those_of_gradients_computed_apart(config_file):
    """Twelve rows make a full update of four micro batches and a short one of two."""
    assembly = trained(config_file, *FOUR, *STILL, "training.epochs=1", "training.max_steps=null")
    meter = assembly.trainer.noise
    expected = by_hand(assembly, 2)
    decay = meter.average.decay
    for column in (0, 1):
        wanted = decay * expected[0][column] + expected[1][column]
        assert float(meter.average.sums[1 + column]) == pytest.approx(wanted, rel=1e-4)
    assert (meter.rows, int(meter.tokens)) == (12, int(assembly.trainer.trained_seen))
    per_row = int(meter.tokens) / 12
    assert meter.estimate().value == pytest.approx(meter.average.estimate().value / per_row)


def test_a_float16_scaler_s_factor_is_taken_out(config_file):
    plain = trained(config_file, *FOUR, *STILL)
    scaled = assemble(config_file, *FOUR, *STILL)
    scaled.trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled.trainer.train()
    torch.testing.assert_close(
        scaled.trainer.noise.average.sums, plain.trainer.noise.average.sums, rtol=1e-4, atol=1e-12
    )


def test_an_update_that_overflows_is_left_out(config_file):
    scaled = assemble(config_file, *FOUR, *STILL)
    scaled.trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    scaled.trainer.train()
    assert float(scaled.trainer.noise.average.sums[0]) == 0


def test_metrics_have_it_from_the_second_update_on_and_no_unbounded_end(tmp_path, config_file):
    assembly = assemble(config_file, *FOUR, "training.max_steps=6")
    writer = MetricsWriter(tmp_path / "metrics.jsonl", assembly.trainer)
    assembly.trainer.add_before_reporters(writer)
    assembly.trainer.train()
    first, *others = [json.loads(line) for line in writer.path.read_text(encoding="utf-8").splitlines()]
    assert not any(key.startswith("noise_scale") for key in first)
    assert all(entry["noise_scale"] >= entry["noise_scale_low"] >= 0 for entry in others)
    bounded = ["noise_scale_high" in entry for entry in others]
    assert set(bounded) == {True, False}, "at this learning rate the gradient is lost in the end"
    assert all(entry["noise_scale_high"] > entry["noise_scale"] for entry in others if "noise_scale_high" in entry)


def test_without_accumulation_there_is_nothing_to_measure_it_from(config_file):
    assembly = trained(config_file, "training.gradient_accumulation_steps=1")
    assert assembly.trainer.noise is None


def test_the_hooks_are_gone_when_training_ends(config_file):
    assembly = trained(config_file, *FOUR)
    assert not any(parameter._backward_hooks for parameter in assembly.trained().values())
