"""Rows from JSONL and JSON, read strictly, with every faulty line named."""

from __future__ import annotations

import codecs
import json
import math
from pathlib import Path
from typing import Any

from finetune.data.faults import NAMED, count, described, listed
from finetune.data.file_limits import next_line, require_whole
from finetune.errors import DataError

Placed = tuple[str, dict[str, Any]]
"""A row's place within its file, such as `line 12`, and its value."""

CONVERSATION_COLUMNS = ("messages", "conversations", "conversation")
"""Columns that hold the turns of a conversation."""


def read_jsonl(path: Path, name: str) -> list[Placed]:
    """One object a line; blank lines are skipped. Raises DataError naming every faulty line."""
    rows: list[Placed] = []
    faults: dict[int, str] = {}
    blank: list[int] = []
    last = 0
    with path.open("rb") as file:
        for line, raw in enumerate(iter(lambda: next_line(file, name), b""), start=1):
            try:
                text = decode(raw.rstrip(b"\r\n"))
                if not text.strip():
                    blank.append(line)
                    continue
                rows.append((f"line {line}", object_of(text)))
            except (ValueError, RecursionError) as error:
                faults[line] = reason_of(error)
            last = line
    if faults:
        # Blank lines alone are harmless. In a damaged file one may be what is left of a row, so it is named too.
        faults |= {line: "blank" for line in blank if line < last}
        raise jsonl_error(name, dict(sorted(faults.items())))
    return rows


def read_json(path: Path, name: str) -> list[Placed]:
    """A list of objects, an object around one such list, or an object of columns. Raises DataError."""
    hint = "the file holds one list of objects"
    text = read_text(path, name)
    try:
        values = _rows_of(_STRICT.decode(text)) if text.strip() else []
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            hint += "; a file of one object a line is named .jsonl"
        raise DataError(f"{name} line {error.lineno}: {reason_of(error)}", hint) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: {reason_of(error)}", hint) from None
    faults = [f"row {number}: {fault}" for number, value in enumerate(values, start=1) if (fault := _fault(value))]
    if faults:
        raise DataError(listed(f"{name}: {count(faults, 'faulty row')}", faults), hint)
    return [(f"row {number}", value) for number, value in enumerate(values, start=1)]


def read_text(path: Path, name: str) -> str:
    """A whole UTF-8 file, without a byte-order mark. Raises DataError naming the first faulty line and byte."""
    require_whole(path, name)
    raw = path.read_bytes()
    try:
        return decode(raw)
    except ValueError:
        pass
    lines = []
    for line, part in enumerate(raw.split(b"\n"), start=1):
        try:
            decode(part)
        except ValueError as error:
            lines.append(f"line {line}: {error}")
    raise DataError(listed(f"{name}: {count(lines, 'faulty line')}", lines), "save the file as UTF-8")


def decode(raw: bytes) -> str:
    """UTF-8 without a byte-order mark; raises ValueError naming the first faulty byte, counted from 1."""
    try:
        return raw.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (0x{error.object[error.start]:02x} at byte {error.start + 1})") from None


def _rows_of(document: Any) -> list[Any]:
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        raise ValueError(f"{described(document)}, not a list of objects")
    lists = {key: value for key, value in document.items() if isinstance(value, list)}
    tables = {key: value for key, value in lists.items() if value and all(isinstance(item, dict) for item in value)}
    if tables.keys() & set(CONVERSATION_COLUMNS):
        return [document]  # one conversation: the list holds its turns, not rows
    if len(tables) == 1:
        return next(iter(tables.values()))
    if len(lists) == len(document) and len({len(column) for column in lists.values()}) == 1:
        return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    keys = ", ".join(list(document)[:NAMED]) or "none"
    raise ValueError(f"an object, not a list of objects (its keys: {keys})")


def object_of(text: str) -> dict[str, Any]:
    """The object that a line holds. Raises ValueError for anything else."""
    value = _STRICT.decode(text)
    if fault := _fault(value):
        raise ValueError(fault)
    return value


def _fault(row: Any) -> str:
    """What is wrong with a parsed row; empty where nothing is."""
    if not isinstance(row, dict):
        return f"{described(row)}, not an object"
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return f"\\u{ord(error.object[error.start]):04x} is half a surrogate pair, which no text can hold"
    except RecursionError as error:
        return reason_of(error)
    return ""


def jsonl_error(name: str, faults: dict[int, str]) -> DataError:
    """What is raised for faulty lines, by their numbers."""
    lines = [f"line {line}: {reason}" for line, reason in faults.items()]
    hint = "each line holds one whole JSON object, in UTF-8"
    if 1 in faults:
        hint += "; a file that is one JSON document is named .json"
    return DataError(listed(f"{name}: {count(faults, 'faulty line')}", lines), hint)


def reason_of(error: Exception) -> str:
    """What is wrong with a line, in a few words."""
    if isinstance(error, json.JSONDecodeError):
        what = error.msg.removesuffix(" at").removesuffix(" starting")
        return f"{what[0].lower()}{what[1:]} (column {error.colno})"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is beyond the largest number")
    return number


def _countable(text: str) -> int:
    """No integer that no other type of number can hold: 309 digits are beyond a float."""
    if len(text) > 308:
        raise ValueError(f"{text[:20]} is beyond the largest number")
    return int(text)


# Python's own parser takes NaN, makes infinity of 1e999, and keeps the last of two equal keys: faults that should be
# seen.
_STRICT = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite, parse_int=_countable
)
