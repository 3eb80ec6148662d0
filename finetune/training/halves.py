"""What does not fit together is done in halves: rows apart, never a part of a row."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

Row = TypeVar("Row")
Result = TypeVar("Result")
OnSplit = Callable[[int, int, str], None]
"""Hears of a batch that did not fit: its rows, how many are tried now, and the words of the error."""


def lack_of_memory(error: BaseException) -> str | None:
    """The first line of an error that says memory ran out, on a card or on the host; None of any other."""
    reason = str(error).partition("\n")[0]
    lacking = isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in reason
    return reason if lacking else None


def release() -> None:
    """Gives back what a pass that failed has left: cycles, and blocks that the card's allocator keeps."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_halves(
    compute: Callable[[Sequence[Row]], Result], rows: Sequence[Row], on_split: OnSplit | None
) -> list[Result]:
    """`compute` of all rows, or where memory runs out of each half, and again. The error of a row alone is raised as it
    is, and any where `on_split` is None."""
    try:
        return [compute(rows)]
    except RuntimeError as error:
        reason = lack_of_memory(error)
        if reason is None or on_split is None or len(rows) == 1:
            raise
    # Only here is the error gone, and with it the frames that hold the activations.
    release()
    middle = (len(rows) + 1) // 2
    on_split(len(rows), middle, reason)
    return [result for half in (rows[:middle], rows[middle:]) for result in in_halves(compute, half, on_split)]


def taken(inputs: dict[str, Any], rows: Sequence[int], total: int) -> dict[str, Any]:
    """Those rows of every tensor that has `total` of them; the rest as it is."""
    index = list(rows)
    by_row = {key for key, value in inputs.items() if isinstance(value, torch.Tensor) and value.dim() > 0}
    return {key: value[index] if key in by_row and len(value) == total else value for key, value in inputs.items()}
