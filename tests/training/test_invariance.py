"""The same sixteen rows give the same update however they are cut into micro batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from assembly import assemble

CUTS = [(1, 16), (4, 4), (16, 1)]
STEP = ["data.eval=null", "training.max_steps=1", "training.warmup_ratio=0", "training.learning_rate=1e-2"]
STEP.append("training.max_grad_norm=1e9")  # clipping would hide a gradient of another size


def write_rows(path: Path, words: list[int]) -> Path:
    """Conversations whose answers have so many words."""
    rows = [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": "word " * n + "end"}]}
        for n in words
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(params=["padded", "packed"])
def sixteen(request, tmp_path: Path, config_file: Path) -> list[str]:
    """Keys for sixteen rows of one to forty-six words, or for sixteen packs of two rows each."""
    if request.param == "padded":
        return [f"data.train={write_rows(tmp_path / 'rows.jsonl', list(range(1, 48, 3)))}", "data.max_length=256"]
    rows = write_rows(tmp_path / "rows.jsonl", [30 + i % 5 for i in range(32)])
    longest = assemble(config_file, f"data.train={rows}", "data.eval=null").data.train.stats.longest
    return [f"data.train={rows}", "data.packing=true", f"data.max_length={2 * longest}"]


def update(config: Path, micro: int, passes: int, *overrides: str) -> tuple[torch.Tensor, int]:
    """What one update adds to the adapter, as one vector in float64, and the number of rows or packs it took."""
    cut = [f"training.micro_batch_size={micro}", f"training.gradient_accumulation_steps={passes}"]
    assembly = assemble(config, *STEP, *cut, *overrides)
    before = assembly.adapter()
    assembly.trainer.train()
    after = assembly.adapter()
    change = torch.cat([(after[name].double() - before[name].double()).flatten() for name in before])
    return change, len(assembly.data.train_dataset)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw_torch"])
@pytest.mark.parametrize("kernel", ["fused_linear", "full_logits"])
def test_one_update_of_sixteen(config_file, sixteen, optimizer, kernel) -> None:
    keys = [f"training.optimizer={optimizer}", f"training.loss_kernel={kernel}", *sixteen]
    changes, sizes = zip(*(update(config_file, *cut, *keys) for cut in CUTS), strict=True)
    assert set(sizes) == {16}, "sixteen rows, or sixteen packs: one update takes them all"
    assert float(changes[0].norm()) > 0
    for change in changes[1:]:
        assert float((change - changes[0]).norm() / changes[0].norm()) < 1e-5


def test_rows_that_are_missing_would_be_seen(config_file, sixteen) -> None:
    whole, _ = update(config_file, 4, 4, "training.optimizer=sgd", *sixteen)
    short, _ = update(config_file, 4, 3, "training.optimizer=sgd", *sixteen)
    assert float((short - whole).norm() / whole.norm()) > 1e-3
