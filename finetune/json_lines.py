"""Lines of JSON objects as a process that may have been killed leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune.whole_file import replace_text


def parse_lines(text: str) -> tuple[list[dict[str, Any]], int]:
    """The objects of a JSON-lines file, and the number of lines that are none.

    A half-written last line is no row and no fault: a process that was killed leaves one.
    """
    *lines, last = text.split("\n")
    parsed = [_object(line) for line in lines if line.strip()]
    rows = [row for row in (*parsed, _object(last)) if row is not None]
    return rows, parsed.count(None)


def keep_until(path: Path, step: int) -> None:
    """Drops the lines of updates that are done again, those after `step`, and what is no line. Raises OSError."""
    if path.exists():
        rows, _ = parse_lines(path.read_text(encoding="utf-8", errors="replace"))
        kept = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows if row["step"] <= step]
        replace_text(path, "".join(kept))


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
