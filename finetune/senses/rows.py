"""Rows of marked words, checked: every fault of every row is found before anything is computed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.embeddings import Occurrence
from finetune.errors import DataError

NAMED = 10
"""Faulty rows that a message names one by one."""

KEYS = '{"text": …, "start": 4, "end": 8, "lemma": "king", "label": "chess"}: the word is text[start:end]'

Label = str | int
"""What names a sense."""


@dataclass(frozen=True)
class SenseRow:
    """A marked word: `lemma` in lower case, the word where it stands, in lower case too, and its sense where known.

    Case is taken away because it can give the sense away: chess books write King, and a model that has seen it would
    tell the books apart, not the senses.
    """

    lemma: str
    occurrence: Occurrence
    label: Label | None = None


def sense_rows(placed: Iterable[tuple[str, dict[str, Any]]], name: str, *, labelled: bool) -> list[SenseRow]:
    """Rows of a file, each with its place (`line 3`); `labelled`: every row must have a label. `name` stands for the
    file in messages. Raises DataError naming every faulty row."""
    rows, faults = [], []
    for where, value in placed:
        if found := list(_faults(value, labelled)):
            faults.append(f"{where}: {'; '.join(found)}")
            continue
        occurrence = Occurrence(value["text"], value["start"], value["end"])
        rows.append(SenseRow(value["lemma"].strip().lower(), occurrence.lowered(), value.get("label")))
    if faults:
        raise DataError(listed(f"{name}: {counted(len(faults), 'faulty row')}", faults), f"a row is {KEYS}")
    if not rows:
        raise DataError(f"{name}: holds no rows", f"a row is {KEYS}")
    return rows


def _faults(row: dict[str, Any], labelled: bool) -> Iterable[str]:
    needed = ["text", "start", "end", "lemma"] + (["label"] if labelled else [])
    if missing := [key for key in needed if row.get(key) is None]:
        yield f"no {', no '.join(missing)}"
    for key in ("text", "lemma"):
        if key not in missing and not (isinstance(row[key], str) and row[key].strip()):
            yield f"{key} is {row[key]!r}, not a text" if not isinstance(row[key], str) else f"{key} is empty"
    label = row.get("label")
    if label is not None and (not isinstance(label, str | int) or isinstance(label, bool) or label == ""):
        yield f"label is {label!r}, not a name or a whole number"
    if not {"text", "start", "end"} & set(missing) and isinstance(row["text"], str) and row["text"].strip():
        yield from _span_faults(row["text"], row["start"], row["end"])


def _span_faults(text: str, start: Any, end: Any) -> Iterable[str]:
    """What is wrong with a span; nothing where it marks whole words."""
    for key, value in (("start", start), ("end", end)):
        if not isinstance(value, int) or isinstance(value, bool):
            yield f"{key} is {value!r}, not a whole number"
            return
    if not 0 <= start <= len(text) or not 0 <= end <= len(text):
        yield f"start {start}, end {end} reach outside the text of {counted(len(text), 'character')}"
    elif start >= end:
        yield f"start {start} is not before end {end}"
    elif not text[start:end].strip():
        yield f"start {start}, end {end} mark {text[start:end]!r}, which is no word"
    elif _cuts(text, start) or _cuts(text, end):
        yield f"start {start}, end {end} mark {text[start:end]!r}, a part of a word"


def _cuts(text: str, at: int) -> bool:
    """Whether a boundary lies between two letters of a script that has cases: such scripts set words apart."""
    return 0 < at < len(text) and all(one.isalpha() and one.lower() != one.upper() for one in text[at - 1 : at + 1])


def by_lemma(rows: Iterable[SenseRow]) -> dict[str, list[SenseRow]]:
    """Rows of each word, in their order."""
    found: dict[str, list[SenseRow]] = defaultdict(list)
    for row in rows:
        found[row.lemma].append(row)
    return dict(found)


def require_senses(rows: Sequence[SenseRow], name: str) -> None:
    """Raises DataError where the rows of a lemma have one label alone."""
    one = [
        f"{lemma}: {counted(len(found), 'row')}, all of them {found[0].label!r}"
        for lemma, found in sorted(by_lemma(rows).items())
        if len({row.label for row in found}) < 2
    ]
    if one:
        title = f"{name}: {counted(len(one), 'word')} with one sense"
        raise DataError(listed(title, one), "add rows of another sense, or take the word out")


def require_known(rows: Sequence[SenseRow], lemmas: Iterable[str], name: str) -> None:
    """Raises DataError where a row's lemma is none of `lemmas`."""
    known = set(lemmas)
    unknown = {lemma: found for lemma, found in sorted(by_lemma(rows).items()) if lemma not in known}
    if unknown:
        lines = [f"{lemma!r} in {counted(len(found), 'row')}" for lemma, found in unknown.items()]
        title = f"{name}: {counted(len(unknown), 'unknown lemma')}"
        raise DataError(listed(title, lines), f"the senses fitted are of: {', '.join(sorted(known))}")


def listed(title: str, lines: list[str]) -> str:
    """A message of several faults, of which NAMED stand in it."""
    more = [f"and {len(lines) - NAMED} more"] if len(lines) > NAMED else []
    return "\n".join([title, *(f"  {line}" for line in [*lines[:NAMED], *more])])


def counted(number: int, noun: str) -> str:
    """So many of them, in words."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
