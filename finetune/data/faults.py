"""Faults of rows, collected so that one error names them all: the first few by place, the rest by number."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Any

from finetune.errors import DataError

NAMED = 10
"""Faults of one kind that a message names one by one."""

UNTRAINABLE = "untrainable"
"""The rule of rows that are no examples at all."""


class RowFault(Exception):
    """One row cannot be trained on, or not as it is.

    `what` is the kind, a noun that equal faults share ("no assistant turn"); `detail` is about this row alone; `rule`
    names it in findings: a rule of the mask contract or, for what no other says, UNTRAINABLE.
    """

    def __init__(self, what: str, hint: str, detail: str = "", *, rule: str = UNTRAINABLE) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.detail = detail
        self.rule = rule


Fault = tuple[str, RowFault]
"""A fault with the `where` of its row."""


def refuse(faults: Iterable[Fault], rows: int, advice: str = "") -> None:
    """Raises one DataError for all faults of `rows` rows, or returns where there are none. `advice` ends its hint."""
    faults = list(faults)
    if not faults:
        return
    lines = by_kind(faults)
    flawed = len({where for where, _ in faults})
    title = f"{flawed:,} of {count_of(rows, 'row')} cannot be trained on"
    hints = dict.fromkeys([*(fault.hint for _, fault in faults), *([advice] if advice else [])])
    raise DataError(lines[0] if len(lines) == 1 else listed(title, lines), "; ".join(hints))


def by_kind(faults: Iterable[Fault]) -> list[str]:
    """A line for each kind of fault: how many rows have it, and the first of them."""
    kinds: dict[str, dict[str, str]] = {}
    for where, fault in faults:
        kinds.setdefault(fault.what, {}).setdefault(where, fault.detail)
    return [of_kind(what, len(found), found) for what, found in kinds.items()]


def of_kind(what: str, number: int, found: dict[str, str]) -> str:
    """The line for `number` rows that have `what`: the first of them, each place with its detail."""
    return f"{count_of(number, 'row')} {'has' if number == 1 else 'have'} {what}: {_places(found)}"


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


def _places(found: dict[str, str]) -> str:
    """The first places, the file's name only where it changes: `train.jsonl line 4, line 9 (turn 2), …`."""
    names, last = [], None
    for where, detail in list(found.items())[:NAMED]:
        source, *place = where.rsplit(" ", 2)
        names.append((where if source != last else " ".join(place)) + (f" ({detail})" if detail else ""))
        last = source
    return ", ".join([*names, "…"] if len(found) > NAMED else names)
