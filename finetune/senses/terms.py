"""Chosen terms: a file of them, checked, and where they stand in a text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from finetune.embeddings import Occurrence
from finetune.errors import DataError
from finetune.senses.rows import counted, listed

WINDOW = 200
"""Characters on either side of a term that are its context."""

KEYS = '{"term": "king"}, or with senses told: {"term": "king", "senses": {"chess": ["a piece on the board"], …}}'


@dataclass(frozen=True)
class Term:
    """A word or several, in lower case; `senses`: definitions or examples of each by name, empty where they are to be
    induced."""

    name: str
    senses: dict[str, list[str]] = field(default_factory=dict)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The term as whole words in any case and with any white space between them; also with s, es, 's, s' behind
        it, and with ies for a y at its end."""
        words = [re.escape(word) for word in self.name.split()]
        last = words[-1]
        forms = rf"{last}(?:e?s)?(?:['’]s?)?"
        if last.endswith("y"):
            forms = rf"(?:{forms}|{last[:-1]}ies['’]?)"
        # \b would need a letter at the term's ends: C++ and .NET have none
        whole = r"\s+".join([*words[:-1], forms])
        return re.compile(rf"(?<!\w){whole}(?!\w)", re.IGNORECASE)

    def find(self, text: str) -> list[tuple[int, int]]:
        """Start and end of each occurrence in a text, in order."""
        return [found.span() for found in self.pattern.finditer(text)]

    def context(self, text: str, start: int, end: int) -> Occurrence:
        """An occurrence with WINDOW characters around it, in lower case and without its ending: neither case nor number
        may stand for a sense."""
        left = max(0, start - WINDOW)
        here = Occurrence(text[left : end + WINDOW], start - left, end - left)
        return here.lowered().replaced(self.name)

    def references(self) -> tuple[list[str], list[Occurrence]]:
        """The sense of each definition and example, and what is encoded for it. One that lacks the term is read as
        "term: definition", so that all name it."""
        labels, found = [], []
        for label, texts in self.senses.items():
            for text in texts:
                spans = self.find(text)
                read = text if spans else f"{self.name}: {text}"
                labels.append(label)
                found.append(self.context(read, *(spans or self.find(read))[0]))
        return labels, found


def terms_of(placed: Iterable[tuple[str, dict[str, Any]]], name: str) -> list[Term]:
    """Terms of a file's rows, each with its place; `name` stands for the file. Raises DataError naming every faulty
    row."""
    found: dict[str, Term] = {}
    faults = []
    for where, value in placed:
        if wrong := list(_faults(value)):
            faults.append(f"{where}: {'; '.join(wrong)}")
            continue
        term = _term(value)
        if term.name in found:
            faults.append(f"{where}: the term {term.name!r} stands twice")
        found[term.name] = term
    if faults:
        raise DataError(listed(f"{name}: {counted(len(faults), 'faulty row')}", faults), f"a row is {KEYS}")
    if not found:
        raise DataError(f"{name}: names no term", f"a row is {KEYS}; of a .txt file each line is a term")
    return list(found.values())


def _term(value: dict[str, Any]) -> Term:
    senses = value.get("senses") or {}
    return Term(" ".join(value["term"].lower().split()), {label.strip(): texts for label, texts in senses.items()})


def _faults(row: dict[str, Any]) -> Iterable[str]:
    if unknown := sorted(row.keys() - {"term", "senses"}):
        yield f"unknown key{'' if len(unknown) == 1 else 's'} {', '.join(unknown)}"
    term = row.get("term")
    if not isinstance(term, str):
        yield "no term" if term is None else f"term is {term!r}, not a text"
    elif not any(map(str.isalnum, term)):
        yield f"term is {term!r}, which has no letter or digit"
    yield from _sense_faults(row.get("senses"))


def _sense_faults(senses: Any) -> Iterable[str]:
    if senses is None:
        return
    if not isinstance(senses, dict):
        yield f"senses is {senses!r}, not an object of names and lists of texts"
        return
    if len({label.strip() for label in senses}) < 2:
        only = f"one sense alone, {next(iter(senses))!r}" if senses else "no sense"
        yield f"senses has {only}: name two and more, or leave senses out to have them induced"
    for label, texts in senses.items():
        if not label.strip():
            yield "a sense without a name"
        elif not isinstance(texts, list) or not texts or not all(_is_text(one) for one in texts):
            yield f"sense {label!r}: not a list of definitions or examples"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def normalised(prompt: str) -> str:
    """A prompt without case, punctuation and spacing: equal ones ask the same."""
    return " ".join(re.findall(r"\w+", prompt.casefold()))


def excerpt(text: str, start: int, end: int, around: int = 40) -> str:
    """A term with some of the text around it, on one line."""
    left, right = max(0, start - around), min(len(text), end + around)
    return f"{'…' if left else ''}{' '.join(text[left:right].split())}{'…' if right < len(text) else ''}"
