"""Rewards that look at the text alone: exact answer, pattern, shape, length."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import regex

from finetune.rl.completion import Completion, Rule, Unscorable

PATTERN_SECONDS = 1.0
"""Longest search. A user's pattern may need time exponential in the text (Python's re, which has no limit, would stop
the run there and then); linear ones need microseconds."""

NUMBER = regex.compile(r"[+-]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]{1,3})?")
"""Decimal numbers, as casefolded text: 1000, 1,000, 1000., .5, -2.5e3."""


class Pattern(Rule):
    """1 where the pattern is found somewhere in the completion, else 0."""

    hint = "write the pattern so that it does not backtrack: no repetition inside a repetition, such as (a+)+"

    def __init__(self, pattern: str) -> None:
        self.pattern = regex.compile(pattern)

    def __call__(self, completion: Completion) -> float:
        try:
            return float(self.pattern.search(completion.text, timeout=PATTERN_SECONDS) is not None)
        except TimeoutError:
            raise _endless(self.pattern.pattern, completion.text) from None


class Exact(Rule):
    """1 where the completion is the right answer, else 0.

    White space and case do not count, and numbers are compared as numbers: 1,000 is 1000.0. With `extract` the first
    group of the pattern's last match stands for the completion, which gets 0 without a match, and for the right answer,
    of which all is compared without one.
    """

    hint = "name the column that holds the right answer (column: ...), write it into these rows, or leave them out"

    def __init__(self, column: str | None = None, extract: str | None = None) -> None:
        self.column = column
        self.extract = regex.compile(extract) if extract else None

    def __call__(self, completion: Completion) -> float:
        right = self.right(completion)
        wanted = self.extracted(right)
        found = self.extracted(completion.text)
        return float(found is not None and same(found, right if wanted is None else wanted))

    def right(self, completion: Completion) -> str:
        """All of the right answer. Raises Unscorable where the row has none."""
        if self.column is None:
            value, name = completion.answer, "answer"
        elif self.column in completion.columns:
            value, name = completion.columns[self.column], f"column {self.column!r}"
        else:
            raise Unscorable(f"no column {self.column!r} among {', '.join(completion.columns) or 'no columns'}")
        if value is None or (isinstance(value, str) and not value.strip()):
            raise Unscorable(f"no {name} to compare with" if value is None else f"an empty {name}")
        if not isinstance(value, str | int | float):
            raise Unscorable(f"{name} is a {type(value).__name__}, not text or a number")
        return str(value)

    def extracted(self, text: str) -> str | None:
        """What of a text is compared, None where the pattern does not match it."""
        if self.extract is None:
            return text
        try:
            groups = [match[1] for match in self.extract.finditer(text, timeout=PATTERN_SECONDS)]
        except TimeoutError:
            raise _endless(self.extract.pattern, text) from None
        return next((group for group in reversed(groups) if group is not None), None)


def same(one: str, other: str) -> bool:
    """Whether two answers are equal but for white space, case and the way a number is written."""
    one, other = _normalised(one), _normalised(other)
    if one == other:
        return True
    numbers = _number(one), _number(other)
    return None not in numbers and numbers[0] == numbers[1]


def _normalised(text: str) -> str:
    return " ".join(text.split()).casefold()


def _number(text: str) -> Decimal | None:
    """Decimals, so that 0.1 is 0.10 and 16 digits are not 15."""
    text = text.replace("\N{MINUS SIGN}", "-")
    return Decimal(text.replace(",", "")) if NUMBER.fullmatch(text) else None


class JsonShape(Rule):
    """1 where the whole completion is one JSON object or array, else 0.

    A bare number or word would be JSON as well, which most short answers are by accident. Text around it, a code fence
    say, makes it 0.
    """

    def __call__(self, completion: Completion) -> float:
        try:
            # Numbers stay text: nothing is computed with them, and Python refuses integers of more than 4,300 digits.
            value = json.loads(completion.text, parse_int=str, parse_float=str, parse_constant=_no_json)
        except (ValueError, RecursionError):
            return 0.0
        return float(isinstance(value, dict | list))


def _no_json(word: str) -> Any:
    raise ValueError(f"{word} is Python's, not JSON's")


@dataclass(frozen=True)
class Tags(Rule):
    """1 where the completion is <tag>…</tag> for each of `tags`, once, in order, none empty, and no more; else 0."""

    tags: list[str]

    def __call__(self, completion: Completion) -> float:
        rest = completion.text.strip()
        marks = [f"<{end}{tag}>" for tag in self.tags for end in ("", "/")]
        if any(rest.count(mark) != 1 for mark in marks):
            return 0.0
        for tag in self.tags:
            if not rest.startswith(f"<{tag}>"):
                return 0.0
            inside, closed, rest = rest.removeprefix(f"<{tag}>").partition(f"</{tag}>")
            if not closed or not inside.strip():
                return 0.0
            rest = rest.lstrip()
        return float(not rest)


@dataclass(frozen=True)
class Length(Rule):
    """1 from `fewest` to `most` units; in a line to 0 at none and at twice `most`."""

    fewest: int = 0
    most: int | None = None
    unit: Literal["characters", "words", "tokens"] = "words"

    def __call__(self, completion: Completion) -> float:
        count = self._count(completion)
        if count < self.fewest:
            return count / self.fewest
        if self.most is not None and count > self.most:
            return max(0.0, 2 - count / self.most)
        return 1.0

    def _count(self, completion: Completion) -> int:
        if self.unit == "tokens":
            return completion.tokens
        return len(completion.text.split() if self.unit == "words" else completion.text)


def _endless(pattern: str, text: str) -> Unscorable:
    return Unscorable(f"{pattern!r} was not done with {len(text):,} characters after {PATTERN_SECONDS:g} s")
