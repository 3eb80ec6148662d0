"""Held-out loss per token, whatever the batches, and what an evaluation must leave alone."""

from __future__ import annotations

import pytest
import torch
from assembly import Assembly, assemble, one_batch
from bitsandbytes.functional import has_avx512bf16
from bitsandbytes.nn import Linear4bit
from torch.nn import functional

from finetune.model import build
from finetune.training.evaluation import held_out_loss


def by_hand(assembly: Assembly) -> float:
    """Cross entropy on full logits, row by row, over the number of trained tokens, summed in double precision."""
    total, count = 0.0, 0
    with torch.no_grad():
        for row in assembly.data.eval.rows:
            logits = assembly.model(input_ids=torch.tensor([row.input_ids]), use_cache=False).logits[0]
            labels = torch.tensor(row.labels)
            total += float(functional.cross_entropy(logits[:-1].double(), labels[1:], reduction="sum"))
            count += row.trained
    return total / count


def test_loss_per_token_is_that_by_hand_for_batches_of_any_size(config_file):
    assembly = assemble(config_file)
    rows, longest = assembly.data.eval.rows, assembly.data.eval.stats.longest
    assert min(row.trained for row in rows) * 4 < max(row.trained for row in rows)
    expected = by_hand(assembly)
    sizes = []

    def collate(batch):
        sizes.append(len(batch))
        return assembly.data.collator(batch)

    for size in (1, 3, 8):
        sizes.clear()
        loss = held_out_loss(assembly.model, rows, collate=collate, max_tokens=size * longest, autocast=None)
        assert sizes[0] == size
        assert sum(sizes) == len(rows)
        assert loss == pytest.approx(expected, rel=1e-6)
    assert assembly.trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-6)


def test_no_batch_holds_more_tokens_than_a_training_step(config_file):
    assembly = assemble(config_file, "training.micro_batch_size=2", "data.max_length=64")
    shapes = []
    collator = assembly.trainer.data_collator

    def collate(rows):
        batch = collator(rows)
        shapes.append(batch["input_ids"].numel())
        return batch

    assembly.trainer.data_collator = collate
    assembly.trainer.evaluate()
    assert max(shapes) <= 2 * 64
    assert len(shapes) < len(assembly.data.eval.rows)


def test_evaluation_leaves_mode_random_state_and_gradients(config_file):
    assembly = assemble(config_file, "lora.dropout=0.5")
    trainer, model = assembly.trainer, assembly.model
    model.train()
    trainer.compute_loss(
        model, {key: one_batch(assembly)[key] for key in ("input_ids", "labels", "attention_mask")}
    ).backward()
    gradients, state = assembly.gradients(), torch.get_rng_state()
    first = trainer.evaluate()["eval_loss"]
    assert first == trainer.evaluate()["eval_loss"], "dropout must be off while evaluating"
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(gradients[name], gradient) for name, gradient in assembly.gradients().items())


def step_gradients(assembly: Assembly) -> dict[str, torch.Tensor]:
    """Gradients of one training step through the trainer's own code."""
    assembly.model.zero_grad()
    assembly.trainer.create_optimizer()
    assembly.trainer.current_gradient_accumulation_steps = 1
    assembly.trainer.training_step(assembly.model, one_batch(assembly))
    return assembly.gradients()


def test_a_training_step_after_an_evaluation_is_bitwise_that_without_one(config_file):
    for compute in ("float32", "bfloat16"):
        override = f"quantization.compute_dtype={compute}"
        fresh, evaluated = assemble(config_file, override), assemble(config_file, override)
        evaluated.trainer.evaluate()
        expected, found = step_gradients(fresh), step_gradients(evaluated)
        assert all(float(tensor.abs().sum()) > 0 for tensor in expected.values())
        assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.filterwarnings("ignore:.*gemv_4bit:UserWarning")
@pytest.mark.skipif(not has_avx512bf16(), reason="bitsandbytes repacks weights only on a CPU with AVX512-BF16")
def test_without_the_guard_an_evaluation_takes_gradients_away(config_file, monkeypatch):
    """Fails once bitsandbytes has a backward pass for the repacked weights: then the guard may go."""
    monkeypatch.setattr(build, "_keep_trainable_format", lambda model: None)
    fresh, evaluated = assemble(config_file), assemble(config_file)
    evaluated.trainer.evaluate()
    layers = [module for module in evaluated.model.modules() if isinstance(module, Linear4bit)]
    assert any(getattr(layer.weight.quant_state, "packing_format_for_cpu", False) for layer in layers)
    expected, found = step_gradients(fresh), step_gradients(evaluated)
    assert not all(torch.allclose(expected[name], found[name], rtol=0.01) for name in expected)
