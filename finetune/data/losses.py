"""Losses of rows from a file, such as those of a held-out set under a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune.data.faults import count, described, listed
from finetune.data.files import read_file
from finetune.errors import ConfigError, DataError

SUFFIXES = (".jsonl", ".json")


def read_losses(path: Path, rows: int) -> dict[int, float]:
    """The loss of each row, from objects `{"row": number from 0, "loss": number}` in a .jsonl or .json file.

    Raises ConfigError and DataError as `files.read_file`, ConfigError for another type of file, and DataError naming
    every object that has no such pair, a row that the data (`rows` long) has not, or one that stands twice.
    """
    name, path = str(path), path.expanduser()
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--losses {name}: not a .jsonl or .json file", 'each line holds {"row": 0, "loss": 1.23}')
    losses: dict[int, float] = {}
    faults = []
    for where, value in read_file(path, name):
        if fault := _fault(value, rows, losses):
            faults.append(f"{where}: {fault}")
        else:
            losses[value["row"]] = float(value["loss"])
    if faults:
        hint = 'each line holds {"row": 0, "loss": 1.23}, rows counted from 0 as by `finetune data check`'
        raise DataError(listed(f"{name}: {count(faults, 'faulty line')}", faults), hint)
    return losses


def _fault(value: dict[str, Any], rows: int, known: dict[int, float]) -> str:
    """What is wrong with an object of the file; empty where nothing is."""
    row, loss = value.get("row"), value.get("loss")
    if type(row) is not int:
        return f"`row` is {described(row) if 'row' in value else 'missing'}, not a whole number"
    if not 0 <= row < rows:
        return f"row {row:,}, but the data has rows 0 to {rows - 1:,}"
    if type(loss) not in (int, float):
        return f"`loss` is {described(loss) if 'loss' in value else 'missing'}, not a number"
    return f"row {row:,} stands twice" if row in known else ""
