"""A file in chunks, each checked by itself: what the processes of a check do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from finetune.data.faults import RowFault
from finetune.data.file_limits import next_line
from finetune.data.lines import BadLine, Ends, GoodLine, read_lines
from finetune.data.rules.fingerprints import Fingerprints, fingerprints
from finetune.data.rules.registry import ACROSS, row_rules
from finetune.data.rules.rule import Rule
from finetune.data.rules.view import Texts, texts_of

CHUNK = 1 << 21
"""Bytes of a file that one process checks at a time."""


@dataclass(frozen=True)
class Asked:
    """What is looked for: names of rules, and the tokens that a row may have; `method` is what rows are meant for,
    where that is known."""

    rules: frozenset[str]
    max_length: int
    method: str | None = None


@dataclass(frozen=True)
class Chunk:
    """The lines of a file that begin between two bytes."""

    path: Path
    start: int
    end: int
    asked: Asked


@dataclass(frozen=True)
class Checked:
    """What was found in a chunk; its lines are numbered from 1. Findings are (line, rule, detail)."""

    lines: int
    good: int
    findings: list[tuple[int, str, str]]
    formats: Counter[str]
    prints: Fingerprints
    bad: list[BadLine] = field(default_factory=list)
    ends: Ends = field(default_factory=Ends)


def chunks_of(path: Path, asked: Asked) -> list[Chunk]:
    """The whole file in chunks."""
    size = path.stat().st_size
    return [Chunk(path, start, min(start + CHUNK, size), asked) for start in range(0, size, CHUNK)]


def check_chunk(chunk: Chunk) -> Checked:
    """Reads and checks the lines of a chunk."""
    lines = list(_lines(chunk))
    ends = Ends()
    read = list(read_lines(lines, ends))
    good = [(line.line, line.value) for line in read if isinstance(line, GoodLine)]
    bad = [line for line in read if isinstance(line, BadLine)]
    return replace(check_values(good, chunk.asked), lines=len(lines), bad=bad, ends=ends)


def check_values(values: list[tuple[int, dict[str, Any]]], asked: Asked) -> Checked:
    """Checks rows with their numbers, as if each were a line."""
    rules = _rules(asked)
    findings: list[tuple[int, str, str]] = []
    read: list[tuple[int, Texts]] = []
    for number, value in values:
        try:
            texts = texts_of(value, asked.method)
        except RowFault as fault:
            findings.append((number, "untrainable", f"{fault.what}: {fault.detail}" if fault.detail else fault.what))
            continue
        read.append((number, texts))
        findings += [(number, rule.name, detail) for rule in rules if (detail := rule.find(texts)) is not None]
    compared = read if asked.rules & ACROSS.keys() else []
    prints = fingerprints(compared, near="near_duplicate" in asked.rules)
    formats = Counter(texts.format for _, texts in read)
    return Checked(len(values), len(values), findings, formats, prints)


@lru_cache
def _rules(asked: Asked) -> list[Rule]:
    return row_rules(asked.rules, asked.max_length)


def _lines(chunk: Chunk) -> Iterator[bytes]:
    with chunk.path.open("rb") as file:
        if chunk.start:
            file.seek(chunk.start - 1)
            next_line(file, str(chunk.path))  # the rest of a line that began in the chunk before
        while file.tell() < chunk.end and (line := next_line(file, str(chunk.path))):
            yield line
