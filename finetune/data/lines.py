"""A .jsonl file line by line: good rows and bad lines, each bad one with its number, its fault and its bytes.

`json_files.read_jsonl` refuses a file that has one bad line; here every line is looked at for itself, so that a bad one
never loses a good one. Both take a line for good by the same parser.
"""

from __future__ import annotations

import base64
import codecs
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.data.json_files import decode, object_of, reason_of
from finetune.errors import ConfigError

STREAMED = (".jsonl", ".ndjson")
"""Types of file that are read by lines."""

LINE_FAULTS = {
    "invalid_utf8": "bytes that are no UTF-8",
    "truncated_json": "the line ends before its object does",
    "trailing_comma": "a comma with nothing behind it",
    "single_quotes": "single quotes, where JSON has double ones",
    "not_a_number": "NaN or Infinity, which JSON has not, or a number as large",
    "control_character": "a line break, tab or other control character inside a string, not escaped",
    "several_objects": "more than one object on the line",
    "repeated_key": "a key that stands twice in one object",
    "not_an_object": "a list, text, number or null instead of an object",
    "half_surrogate": "half a surrogate pair, which no text can hold",
    "nested_too_deeply": "objects or lists inside each other beyond what the parser follows",
    "blank_line": "a blank line between rows of a damaged file, where a row may have been",
    "invalid_json": "any other departure from JSON",
}
"""What is wrong with a line, by name."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that holds no row. `line` counts from 1; `rule` is a key of LINE_FAULTS; `raw` has no line end."""

    line: int
    rule: str
    detail: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class GoodLine:
    """A line that holds a row."""

    line: int
    value: dict[str, Any]


@dataclass
class Ends:
    """How lines begin and end, counted as they are read: byte-order marks, CRLF, and numbers of blank lines."""

    marks: int = 0
    crlf: int = 0
    blank: list[int] = field(default_factory=list)


def read_lines(lines: Iterable[bytes], ends: Ends, start: int = 1) -> Iterator[GoodLine | BadLine]:
    """Every line that is not blank, numbered from `start`; `ends` is filled on the way."""
    for number, line in enumerate(lines, start):
        raw = line.rstrip(b"\r\n")
        ends.marks += raw.startswith(codecs.BOM_UTF8)
        ends.crlf += line.endswith(b"\r\n")
        if not raw.removeprefix(codecs.BOM_UTF8).strip():
            ends.blank.append(number)
            continue
        try:
            yield GoodLine(number, object_of(decode(raw)))
        except (ValueError, RecursionError) as error:
            yield BadLine(number, fault_of(raw, error), reason_of(error), raw)


def blank(number: int) -> BadLine:
    """A blank line in a damaged file."""
    return BadLine(number, "blank_line", "blank", b"")


def fault_of(raw: bytes, error: Exception) -> str:
    """The key of LINE_FAULTS for a line and what the parser said of it."""
    if isinstance(error, RecursionError):
        return "nested_too_deeply"
    try:
        text = decode(raw)
    except ValueError:
        return "invalid_utf8"
    if isinstance(error, json.JSONDecodeError):
        return _broken(text, error)
    constants: list[str] = []
    try:
        value = json.loads(text, parse_constant=constants.append)
        if "beyond" in str(error):
            return "not_a_number"
    except ValueError:
        return "invalid_json"  # such as a number of more digits than Python reads
    if constants:
        return "not_a_number"
    if not isinstance(value, dict):
        return "not_an_object"
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "half_surrogate"
    return "repeated_key"


def _broken(text: str, error: json.JSONDecodeError) -> str:
    """Which fault the text has where the parser stopped."""
    before, rest = text[: error.pos].rstrip(), text[error.pos :].strip()
    if "control character" in error.msg:
        return "control_character"
    if error.msg.startswith("Extra data"):
        return "trailing_comma" if rest == "," else "several_objects" if rest[0] in "{[" else "invalid_json"
    if "trailing comma" in error.msg or (rest[:1] in ("}", "]") and before.endswith(",")):
        return "trailing_comma"
    if error.msg.startswith("Unterminated string") or any(word.startswith(rest) for word in ("true", "false", "null")):
        return "truncated_json"
    return "single_quotes" if rest.startswith("'") else "invalid_json"


def require_new(path: Path) -> None:
    """Raises ConfigError where the file for bad lines exists."""
    if path.exists():
        raise ConfigError(f"{path}: exists already", "bad lines go to a new file; name another or move it")


def write_bad_lines(bad: Mapping[str, Iterable[BadLine]], path: Path) -> None:
    """Writes the bad lines of files, by their names, to a new .jsonl file: `file` where they are several, `line`,
    `rule`, `detail`, and the line as `text` or, where it is no UTF-8, as `base64`. Raises ConfigError where the file
    exists or cannot be written.
    """
    require_new(path)
    entries = [({"file": name} if len(bad) > 1 else {}) | _entry(one) for name, lines in bad.items() for one in lines]
    try:
        with path.open("x", encoding="utf-8") as file:
            file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error})", "name another file") from None


def _entry(bad: BadLine) -> dict[str, Any]:
    return {"line": bad.line, "rule": bad.rule, "detail": bad.detail, **as_text(bad.raw)}


def as_text(raw: bytes) -> dict[str, str]:
    """Bytes of a line for JSON: as `text` or, where they are no UTF-8, as `base64`."""
    try:
        return {"text": raw.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}
