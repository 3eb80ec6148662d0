"""Rows become examples: the format is found by looking at every row, and every faulty row is named at once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from finetune.data.converters import examples_of
from finetune.data.example import Example
from finetune.data.faults import NAMED, RowFault, listed, refuse
from finetune.data.rows import Row
from finetune.data.shapes import NAMES, FormatName, kinds_of, refusal
from finetune.errors import DataError

__all__ = ["Converted", "Example", "FormatName", "convert", "detect_format", "to_examples"]


@dataclass(frozen=True)
class Converted:
    """A row with its examples, or with the fault that it has. Each of several instances gives one, and each answer of a
    preference."""

    row: Row
    examples: list[Example] = field(default_factory=list)
    fault: RowFault | None = None


def convert(rows: list[Row], format: str = "auto", method: str = "sft") -> tuple[list[Converted], FormatName]:
    """Every row, in order, as what `method` learns from or with its fault, and the format they have.

    Raises DataError where rows do not have that format, or `method` does not learn from it.
    """
    name = detect_format(rows, method) if format == "auto" else _require(rows, format, method)
    return [_converted(row, name, method) for row in _filled(rows)], name


def to_examples(rows: list[Row], format: str = "auto") -> tuple[list[Example], FormatName]:
    """The examples of all rows, in order, and the format they have.

    Raises DataError where rows do not have that format, or naming every row that cannot be trained on.
    """
    converted, name = convert(rows, format)
    faults = {one.row.where: one.fault for one in converted if one.fault}
    refuse(faults.items(), len({row.where for row in rows}))
    return [example for one in converted for example in one.examples], name


def _converted(row: Row, format: FormatName, method: str) -> Converted:
    try:
        examples = examples_of(row, format, method)
    except RowFault as fault:
        return Converted(row, fault=fault.with_traceback(None))  # which would keep what its callers held
    return Converted(row, [replace(example, source=row.source, index=row.index) for example in examples])


def detect_format(rows: list[Row], method: str = "sft") -> FormatName:
    """The one format that the keys of all rows show; columns that are null in every row do not count.

    Raises DataError naming the first row of each kind where there are several, or where `method` learns from none.
    """
    assert rows, "read_rows gives at least one row"
    first: dict[str, Row] = {}
    for row, filled in zip(rows, _filled(rows), strict=True):
        kinds = kinds_of(filled.value)
        # Empty or faulty turns fit either conversation format: other rows decide, and converting names the fault.
        first.setdefault("conversation" if set(kinds) >= {"messages", "sharegpt"} else kinds[0], row)
    undecided = first.pop("conversation", None)
    if undecided and not first.keys() & {"messages", "sharegpt"}:
        first["messages" if "messages" in undecided.value else "sharegpt"] = undecided
    if len(first) > 1:
        lines = [f"{NAMES.get(kind, kind)}: {row.where} (keys: {_keys(row)})" for kind, row in first.items()]
        raise DataError(
            listed(f"rows of {len(first)} different formats, which first appear at", lines),
            "bring all rows to one format, such as messages; or set data.format to one whose keys all rows have",
        )
    ((kind, row),) = first.items()
    if hint := refusal(kind, method):
        raise DataError(f"{row.where}: {NAMES.get(kind, kind)} (keys: {_keys(row)})", hint)
    return kind


def _require(rows: list[Row], format: str, method: str) -> FormatName:
    """The format asked for, where every row has its keys; raises DataError naming the first row that has not."""
    if hint := refusal(format, method):
        raise DataError(f"data.format={format}, but training.method={method}", hint)
    for row, filled in zip(rows, _filled(rows), strict=True):
        kinds = kinds_of(filled.value)
        if format not in kinds:
            hint = refusal(kinds[0], method) or f"set data.format={kinds[0]}, or auto"
            found = NAMES.get(kinds[0], kinds[0])
            raise DataError(f"{row.where}: data.format={format}, but found {found} (keys: {_keys(row)})", hint)
    return format


def _filled(rows: list[Row]) -> list[Row]:
    """The rows without columns that are null in all of them: tables of mixed origin are full of these."""
    filled = {key for row in rows for key, value in row.value.items() if value is not None}
    return [replace(row, value={key: item for key, item in row.value.items() if key in filled}) for row in rows]


def _keys(row: Row) -> str:
    keys = [key if value is not None else f"{key} (null)" for key, value in row.value.items()]
    return ", ".join([*keys[:NAMED], "…"] if len(keys) > NAMED else keys) or "none"
