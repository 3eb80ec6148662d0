"""What a curation writes: the rows kept as they stood, those dropped with rule and score, and the receipt."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finetune import __version__
from finetune.data.curation_state import CURATED, DROPPED
from finetune.data.curation_steps import Step
from finetune.data.faults import count_of
from finetune.data.lines import as_text
from finetune.data.stream import Stream

LIBRARIES = ("numpy", "scikit-learn", "torch", "transformers", "sentence-transformers")


class Results:
    """The two files of rows, written line by line."""

    def __init__(self, work: Path) -> None:
        self._files = {name: (work / name).open("wb") for name in (CURATED, DROPPED)}
        self._digests = {name: hashlib.sha256() for name in self._files}
        self._counts = Counter(dict.fromkeys(self._files, 0))

    def keep(self, raw: bytes) -> None:
        """A row, as it stood."""
        self._write(CURATED, raw)

    def drop(self, entry: dict[str, Any]) -> None:
        """A dropped row."""
        self._write(DROPPED, json.dumps(entry, ensure_ascii=False).encode() + b"\n")

    def close(self) -> dict[str, dict[str, Any]]:
        """Rows, bytes and SHA-256 of each file."""
        found = {}
        for name, file in self._files.items():
            found[name] = {
                "rows": self._counts[name],
                "bytes": file.tell(),
                "sha256": self._digests[name].hexdigest(),
            }
            file.close()
        return found

    def _write(self, name: str, line: bytes) -> None:
        self._files[name].write(line)
        self._digests[name].update(line)
        self._counts[name] += 1


def write_results(stream: Stream, checked: dict[str, Any], steps: list[Step], work: Path) -> dict[str, dict[str, Any]]:
    """Writes both files and returns what they hold, by name."""
    findings: dict[int, list[tuple[str, str]]] = {}
    for row, _, rule, detail in checked["findings"]:
        findings.setdefault(row, []).append((rule, detail))
    # A few bytes a row: which step dropped it (from 1), and its place among what that step dropped.
    which, place = np.zeros(checked["rows"], np.uint8), np.zeros(checked["rows"], np.int64)
    for number, step in enumerate(steps, start=1):
        which[step.rows] = number
        place[step.rows] = np.arange(len(step.rows))
    results = Results(work)
    for row, line, raw in stream.rows(set(checked["blank"])):
        if row in findings:
            said = _by_rule(findings[row])
        elif which[row]:
            said = _by_step(steps[which[row] - 1], place[row])
        else:
            results.keep(raw)
            continue
        results.drop({"row": row, **stream.place(line), **said, **as_text(raw.rstrip(b"\r\n"))})
    return results.close()


def _by_rule(found: list[tuple[str, str]]) -> dict[str, Any]:
    (rule, detail), *others = found
    also = {"also": [name for name, _ in others]} if others else {}
    return {"rule": rule, "detail": detail, **also}


def _by_step(step: Step, place: int) -> dict[str, Any]:
    score = step.scores[place]
    return {"rule": step.name, **({} if score is None else {"score": score}), "detail": step.details[place]}


def receipt_of(
    stream: Stream,
    asked: dict[str, Any],
    checked: dict[str, Any],
    steps: list[Step],
    outputs: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """What went in, what was asked, what each step dropped beside chance, and what came out."""
    flagged: dict[int, str] = {}
    for row, _, rule, _ in checked["findings"]:
        flagged.setdefault(row, rule)
    rules = {
        "step": "rules",
        "dropped": len(flagged),
        "chance": checked["chance"],
        "by_rule": dict(Counter(flagged.values()).most_common()),
    }
    each = [{"step": step.name, "dropped": len(step.rows), "chance": step.chance, **step.facts} for step in steps]
    return {
        "finetune": __version__,
        "sources": [{"file": part.name, "bytes": part.bytes, "sha256": part.sha256} for part in stream.parts],
        **{name: value for name, value in asked.items() if name != "sources"},
        "rows": {"in": checked["rows"], "kept": outputs[CURATED]["rows"], "dropped": outputs[DROPPED]["rows"]},
        "steps": [rules, *each],
        "notes": checked["notes"],
        "outputs": outputs,
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def show_receipt(receipt: dict[str, Any], console: Console) -> None:
    """Prints what each step dropped, beside random selection of the same size."""
    for note in receipt["notes"]:
        console.print(f"[dim]note:[/dim] {escape(note)}", soft_wrap=True)
    rows = receipt["rows"]
    title = f"{count_of(rows['in'], 'row')}: {rows['kept']:,} kept, {rows['dropped']:,} dropped"
    caption = "random: as many rows drawn at random, and the range of 95 % of such draws"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for name in ("step", "dropped", "measure", "here", "random"):
        table.add_column(name, justify="left" if name in ("step", "measure") else "right")
    for step in receipt["steps"]:
        name, dropped = step["step"].replace("_", " "), f"{step['dropped']:,}"
        for one in step["chance"] or [None]:
            table.add_row(name, dropped, *(_beside(one) if one else ("", "", "")))
            name = dropped = ""
    console.print(table)


def _beside(one: dict[str, Any]) -> tuple[str, str, str]:
    here, random, low, high = (_figure(one[key]) for key in ("selected", "random", "low", "high"))
    return escape(one["measure"]), here, f"{random} ({low} to {high})"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
