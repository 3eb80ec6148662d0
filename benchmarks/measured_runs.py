"""Runs that other people measured, as runs of ours: a row of a table becomes a configuration, a card, a batch, a loop.

The columns are those of COLUMNS and FIGURES; one run is a row. What is known of other people's training loops stands
in LOOPS, by the source that a row names, never by row.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError
from torch.nn import functional

from finetune.config import RunConfig
from finetune.errors import ConfigError
from finetune.preflight.hardware import find_card
from finetune.preflight.step import Batch, Loop
from finetune.spec import RunSpec, describe

Row = dict[str, str]

FIGURES = ("allocated", "reserved", "process")
"""Measured in the columns `allocated_bytes` and so on; only the first must be there."""
COLUMNS = (
    "model", "quantization", "double_quant", "lora_r", "targets", "micro_batch_size", "seq_len", "attention", "loss",
    "gradient_checkpointing", "optimizer", "base_dtype", "autocast", "fp32_unquantized", "gpu",
)  # fmt: skip
"""What must be known of a run to repeat it."""
OPTIONAL = ("source", "lora_alpha", "lora_dropout")
"""What may be: without a source the loop is ours, without a dropout there is none."""
LOSS_KERNELS = {"full_logits_fp32": "full_logits", "fused_linear": "fused_linear"}
OTHER_LOSSES = {"triton_cross_entropy": "ours has no Triton cross entropy over materialised 16-bit logits"}


class Unusable(Exception):
    """A row that cannot be a run of ours, and why."""


class Source(NamedTuple):
    """Where rows come from: what its training loop does otherwise than ours, in words and as a loop for a row."""

    note: str
    loop: Callable[[Row], Loop]


def _shifted_copy_loss(logits: torch.Tensor, labels: torch.Tensor, **_: object) -> torch.Tensor:
    """The loss inside transformers' models of 2024: logits (b, s, v) in float32, and a copy of them less the last."""
    logits = logits.float()  # a name that holds them while the copy exists
    shifted = logits[..., :-1, :].contiguous()
    return functional.cross_entropy(shifted.flatten(0, 1), labels[..., 1:].flatten())


def _fitcheck(row: Row) -> Loop:
    return Loop(keeps_output=True, clips=False, moved=row["quantization"] == "none")


def _can_i_finetune(row: Row) -> Loop:
    return Loop(keeps_output=True, clips=False)


def _fms(row: Row) -> Loop:
    return Loop() if row["loss"] == "fused_linear" else Loop(model_loss=_shifted_copy_loss)


LOOPS = {
    "anassbzdd/fitcheck": Source(
        "keeps the model's output, and the logits with it, through the backward pass; clips no gradients; "
        "a model that is not quantised is made in host memory and moved to the card",
        _fitcheck,
    ),
    "daoyuanli2816/can-i-finetune-this": Source(
        "keeps the model's output, and the logits with it, through the backward pass; clips no gradients",
        _can_i_finetune,
    ),
    "foundation-model-stack/fms-acceleration": Source(
        "transformers' trainer of autumn 2024 (torch 2.4.1): the model computes the loss in its forward pass and "
        "shifts the logits by a copy; fused rows: Liger's fused linear loss, FMS's RMSNorm and rotary embedding",
        _fms,
    ),
}
"""Training loops by source, its name in lower case."""
UNKNOWN = Source("is not known here: taken as our own loop", lambda row: Loop())


def source_of(row: Row) -> Source:
    """The loop that a row's run was trained by."""
    return LOOPS.get(row.get("source", "").lower(), UNKNOWN)


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV file, blanks stripped; ConfigError where there are none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", "give the path of a CSV table of measured runs") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})", "give the path of a CSV text file") from None
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise ConfigError(f"{path}: not a CSV table: {error}", "one run a row, below a row of column names") from None
    if not rows:
        raise ConfigError(f"{path}: no rows below a row of column names", f"columns: id, {', '.join(COLUMNS)}")
    return [{name: (value or "").strip() for name, value in row.items() if isinstance(name, str)} for row in rows]


def name_of(row: Row, number: int) -> str:
    """What a row is called: its id, or its number in the table."""
    return row.get("id") or f"row {number}"


def measured(row: Row) -> dict[str, int | None]:
    """Measured bytes by figure, None where not recorded; Unusable where a number is none, or nothing was allocated."""
    found = {figure: _bytes(row, f"{figure}_bytes") for figure in FIGURES}
    if found["allocated"] is None:
        raise Unusable("allocated_bytes is missing")
    return found


def described(row: Row, models: Path) -> tuple[RunSpec, Batch]:
    """The run of a row, with the model `models`/NAME/config.json on the row's card, and the batch that it trained on.

    Raises Unusable.
    """
    missing = [name for name in COLUMNS if not row.get(name)]
    if missing:
        raise Unusable(f"{', '.join(missing)} missing")
    if row["loss"] not in LOSS_KERNELS:
        raise Unusable(OTHER_LOSSES.get(row["loss"], f"the loss {row['loss']!r} is not known"))
    model = models / row["model"]
    if not (model / "config.json").is_file():
        raise Unusable(f"no {row['model']}/config.json in {models}")
    try:
        config = RunConfig.model_validate(_sections(row, model), strict=False)
        batch = Batch(config.training.micro_batch_size, config.data.max_length)
        return describe(config, find_card(row["gpu"])), batch
    except ValidationError as error:
        problem = error.errors()[0]
        raise Unusable(f"{problem['loc'][-1]}: {problem['msg']}, found {problem['input']!r}") from None
    except ConfigError as error:
        raise Unusable(error.message.removeprefix("--gpu: ").replace("\n", " ")) from None


def _sections(row: Row, model: Path) -> dict:
    return {
        "model": {
            "name_or_path": str(model),
            "dtype": row["base_dtype"],
            "attention": "eager" if row["attention"] == "eager" else "sdpa",  # the card decides which SDPA kernel
            "fp32_unquantized": row["fp32_unquantized"],
            "lean_norms": False,  # transformers' own had run
            "lean_gates": False,
        },
        "quantization": {
            "type": row["quantization"],
            "double_quant": row["double_quant"],
            "compute_dtype": row["base_dtype"],
        },
        "lora": {
            "r": row["lora_r"],
            "alpha": row.get("lora_alpha") or 16,
            "dropout": row.get("lora_dropout") or 0,
            "target_modules": row["targets"] if row["targets"] == "all-linear" else row["targets"].split("+"),
        },
        "data": {"train": "none", "max_length": row["seq_len"]},
        "training": {
            "micro_batch_size": row["micro_batch_size"],
            "gradient_accumulation_steps": 1,
            "gradient_checkpointing": row["gradient_checkpointing"],
            "optimizer": row["optimizer"],
            "autocast": row["autocast"],
            "loss_kernel": LOSS_KERNELS[row["loss"]],
        },
        "hardware": {"expandable_segments": False},  # torch's default, which the runs had
        "output_dir": "none",
    }


def _bytes(row: Row, column: str) -> int | None:
    text = row.get(column)
    if not text:
        return None
    try:
        found = float(text)
    except ValueError:
        raise Unusable(f"{column}: {text!r} is not a number") from None
    if not 0 < found < float("inf"):
        raise Unusable(f"{column}: {text} is not a number of bytes above 0")
    return round(found)
