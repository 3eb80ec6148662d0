"""A whole run through the real trainer takes what was predicted for its batches."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from finetune import pipeline
from finetune.config import RunConfig, load_config
from finetune.data import load_data
from finetune.preflight import decide_recomputing
from finetune.preflight.prediction import predict
from finetune.preflight.step import Batch
from finetune.spec import describe

torch.set_num_threads(1)

TOLERANCE = 0.005
WORDS = 200
"""Of an answer: far more tokens than `max_length`, so that every row is as long as that."""


def write_rows(path: Path, words: list[int]) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "Speak."}, {"role": "assistant", "content": "word " * count}]}
        for count in words
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def configured(config_file: Path, *overrides: str) -> RunConfig:
    """Nothing held out and no rehearsal: what is measured is training alone. Rows may be cut: they fill sequences."""
    alone = ["data.eval=null", "data.max_truncated=1", "training.rehearsal=false"]
    return load_config(config_file, [*alone, "training.gradient_checkpointing=true", *overrides])


def predicted(config: RunConfig, batch: Batch | None = None) -> int:
    return predict(decide_recomputing(describe(config)), batch).allocated


def measured(config: RunConfig) -> int:
    return pipeline.train(config, Console(file=io.StringIO()))["memory"]["measured_bytes"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.loss_kernel=fused_linear"],
        ["training.loss_kernel=fused_linear", "training.gradient_checkpointing=auto", "data.loss_on=all"],
        ["training.loss_kernel=full_logits", "training.gradient_checkpointing=false", "lora.target_modules=all-linear"],
        ["training.loss_kernel=full_logits", "training.optimizer=adamw_8bit", "lora.r=64"],
        ["training.loss_kernel=full_logits", "quantization.type=none", "training.optimizer=sgd", "lora.dropout=0.1"],
        ["training.loss_kernel=full_logits", "quantization.compute_dtype=bfloat16", "lora.use_dora=true"],
        ["training.loss_kernel=full_logits", "training.gradient_accumulation_steps=1", "lora.r=64"],
        ["training.loss_kernel=full_logits", "training.micro_batch_size=1", "model.attention=eager"],
    ],
    ids=lambda overrides: " ".join(override.split(".")[1] for override in overrides),
)
def test_rows_of_full_length(config_file: Path, rows_file: Path, overrides: list[str]) -> None:
    write_rows(rows_file, [WORDS] * 8)
    config = configured(config_file, *overrides)
    batch = Batch(config.training.micro_batch_size, config.data.max_length)
    assert predicted(config, batch) == pytest.approx(measured(config), rel=TOLERANCE)


@pytest.mark.parametrize("kept", [True, False], ids=["checkpointed", "kept"])
def test_the_worst_batch(config_file: Path, rows_file: Path, kept: bool) -> None:
    """One row of full length and one a word shorter, which brings a mask: no batch can take more."""
    write_rows(rows_file, [20, 19] * 4)
    overrides = ["training.loss_kernel=full_logits", f"training.gradient_checkpointing={str(not kept).lower()}"]
    rows = load_data(describe(configured(config_file))).train_dataset["input_ids"]
    config = configured(config_file, f"data.max_length={max(map(len, rows))}", *overrides)
    assert predicted(config) == pytest.approx(measured(config), rel=TOLERANCE)


def test_packs(config_file: Path, rows_file: Path) -> None:
    write_rows(rows_file, list(range(3, 60)))
    overrides = ["training.loss_kernel=full_logits", "data.packing=true", "training.gradient_checkpointing=false"]
    config = configured(config_file, *overrides)
    assert predicted(config) == pytest.approx(measured(config), rel=TOLERANCE)
