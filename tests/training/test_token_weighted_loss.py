"""The loss of an update is the mean over all of its trained tokens, however its rows are cut into micro batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from assembly import Assembly, assemble
from torch.nn import functional
from transformers import TrainerCallback

WORDS = (1, 2, 3, 5, 8, 13, 21, 40)
"""Lengths of the eight answers: the shortest weighs a fifteenth of the longest."""


@pytest.fixture
def eight_rows(tmp_path: Path) -> Path:
    """Eight conversations whose answers have very unequal lengths."""
    path = tmp_path / "eight.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": "word " * n + "end"}]}
        for n in WORDS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class GradientKeeper(TrainerCallback):
    """Copies each update's gradients right before the optimiser takes them."""

    def __init__(self, assembly: Assembly) -> None:
        self.assembly = assembly
        self.kept: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, **kwargs) -> None:
        self.kept.append(self.assembly.gradients())


def train(config: Path, rows: Path, *overrides: str) -> tuple[Assembly, list[float], list[dict[str, torch.Tensor]]]:
    """Losses and gradients of every update of a real run; at no learning rate worth the name the adapter stays."""
    fixed = [
        f"data.train={rows}",
        "data.eval=null",
        "data.max_length=160",
        "training.max_grad_norm=1e9",
        "training.learning_rate=1e-30",
    ]
    assembly = assemble(config, *fixed, "training.max_steps=1", *overrides)
    keeper = GradientKeeper(assembly)
    assembly.trainer.add_callback(keeper)
    assembly.trainer.train()
    losses = [entry["loss"] for entry in assembly.trainer.state.log_history if "loss" in entry]
    return assembly, losses, keeper.kept


def by_hand(assembly: Assembly, rows: list[int]) -> tuple[float, dict[str, torch.Tensor]]:
    """Cross entropy on full logits, one row at a time without padding, over the number of trained tokens."""
    total, count = torch.zeros(()), 0
    for index in rows:
        row = assembly.data.train.rows[index]
        ids, labels = torch.tensor([row.input_ids]), torch.tensor(row.labels)
        logits = assembly.model(input_ids=ids, use_cache=False).logits[0]
        total = total + functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum")
        count += row.trained
    assembly.model.zero_grad()
    (total / count).backward()
    return float(total.detach()) / count, assembly.gradients()


def relative(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """Norm of the difference over the norm, of all gradients as one vector."""
    assert left.keys() == right.keys()
    difference = sum((left[name] - right[name]).double().square().sum() for name in left)
    return float((difference / sum(tensor.double().square().sum() for tensor in right.values())).sqrt())


@pytest.mark.parametrize("kernel", ["fused_linear", "full_logits"])
def test_micro_batches_of_any_size_give_one_loss_and_gradient(config_file, eight_rows, kernel):
    for micro, accumulation in ((1, 8), (2, 4), (8, 1)):
        assembly, losses, gradients = train(
            config_file,
            eight_rows,
            f"training.loss_kernel={kernel}",
            f"training.micro_batch_size={micro}",
            f"training.gradient_accumulation_steps={accumulation}",
        )
        loss, gradient = by_hand(assembly, list(range(8)))
        assert losses == pytest.approx([loss], rel=1e-5)
        assert relative(gradients[0], gradient) < 1e-5


@pytest.mark.parametrize("kernel", ["fused_linear", "full_logits"])
def test_packed_rows_give_the_same_loss_and_gradient(config_file, eight_rows, kernel):
    packed = ["data.packing=true", "data.max_length=160", f"training.loss_kernel={kernel}"]
    probe = assemble(config_file, f"data.train={eight_rows}", "data.eval=null", *packed)
    packs = len(probe.data.train_dataset)
    assert probe.data.train.stats.truncated == 0
    assert 1 < packs < 8
    for micro, accumulation in ((1, packs), (packs, 1)):
        assembly, losses, gradients = train(
            config_file,
            eight_rows,
            *packed,
            f"training.micro_batch_size={micro}",
            f"training.gradient_accumulation_steps={accumulation}",
        )
        loss, gradient = by_hand(assembly, list(range(8)))
        assert losses == pytest.approx([loss], rel=1e-5)
        assert relative(gradients[0], gradient) < 1e-5


def test_the_short_update_at_the_end_of_an_epoch_is_weighted_by_its_own_tokens(config_file, eight_rows):
    assembly, losses, gradients = train(
        config_file,
        eight_rows,
        "training.max_steps=null",
        "training.micro_batch_size=1",
        "training.gradient_accumulation_steps=5",
    )
    order = list(torch.randperm(8, generator=torch.Generator().manual_seed(assembly.spec.config.training.seed)))
    expected = [by_hand(assembly, order[:5]), by_hand(assembly, order[5:])]
    assert losses == pytest.approx([loss for loss, _ in expected], rel=1e-5)
    for found, (_, gradient) in zip(gradients, expected, strict=True):
        assert relative(found, gradient) < 1e-5
