"""Faults of rows, collected so that one error names them all: the first few by place, the rest by number."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from finetune.errors import DataError

NAMED = 10
"""Faults of one kind that a message names one by one."""


class RowFault(Exception):
    """One row cannot be trained on.

    `what` is the kind, a noun that equal faults share ("no assistant turn"); `detail` is about this row alone.
    """

    def __init__(self, what: str, hint: str, detail: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.detail = detail


def refuse(faults: dict[str, RowFault], rows: int) -> None:
    """Raises one DataError for all faults, given by the row's `where`, or returns where there are none."""
    if not faults:
        return
    kinds: dict[str, dict[str, RowFault]] = {}
    for where, fault in faults.items():
        kinds.setdefault(fault.what, {})[where] = fault
    lines = [
        f"{count(found, 'row')} {'has' if len(found) == 1 else 'have'} {what}: {_places(found)}"
        for what, found in kinds.items()
    ]
    hints = dict.fromkeys(next(iter(found.values())).hint for found in kinds.values())
    message = (
        lines[0] if len(lines) == 1 else listed(f"{len(faults)} of {count_of(rows, 'row')} cannot be trained on", lines)
    )
    raise DataError(message, "; ".join(hints))


def listed(title: str, lines: list[str]) -> str:
    """The title, then the first lines, indented, then how many more there are."""
    more = [f"and {len(lines) - NAMED} more"] if len(lines) > NAMED else []
    return "\n".join([title, *(f"  {line}" for line in [*lines[:NAMED], *more])])


def count(items: Sized, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return count_of(len(items), noun)


def count_of(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def described(value: Any) -> str:
    """What a value is, for messages: `a list`, `null`."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")


def _places(found: dict[str, RowFault]) -> str:
    """The first places, the file's name only where it changes: `train.jsonl line 4, line 9 (turn 2), …`."""
    names, last = [], None
    for where, fault in list(found.items())[:NAMED]:
        source, *place = where.rsplit(" ", 2)
        names.append((where if source != last else " ".join(place)) + (f" ({fault.detail})" if fault.detail else ""))
        last = source
    return ", ".join([*names, "…"] if len(found) > NAMED else names)
