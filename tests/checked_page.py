"""A page of the documentation whose every number is computed again by a test."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from finetune.study import Table, markdown_table

EXEMPT = [
    r"```.*?```", r"\$\$.*?\$\$", r"\$[^$\n]+\$", r"`[^`\n]+`",  # code, commands and formulas
    r"<!--.*?-->", r"\]\([^)]*\)", r"https?://\S+", r"arXiv:\d+\.\d+",  # comments, links, papers
    r"\b(?:19|20)\d\d\b",  # years
    r"^#+ .*$", r"^\s*\d+\. ",  # headings, numbered lists
]  # fmt: skip
NUMBER = r"(?<![\w.,-])\d[\d,.]*(?![\w-])"
"""Numbers that stand alone: the 7 of 7B and the 8 of 8-bit are names."""


class Page:
    """Text of a page; what `says` has found counts as checked."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text(encoding="utf-8")
        self.rest = self.text

    def says(self, words: str) -> None:
        """Asserts that the page has these words, however its lines are broken."""
        pattern = r"\s+".join(re.escape(word) for word in words.split())
        assert re.search(pattern, self.text), f"the page does not say: {words}"
        self.rest = re.sub(pattern, " ", self.rest)

    def says_tables(self, tables: Iterable[Table], study: str = "") -> None:
        """Asserts that each table that has a name stands in its place: NAME, or STUDY-NAME."""
        for table in tables:
            if table.name:
                name = f"{study}-{table.name}" if study else table.name
                self.says(f"<!-- {name}: written by scripts/update_docs.py --> {markdown_table(table)}")

    def unchecked(self) -> list[str]:
        """Numbers on the page that nothing has computed, with what stands around them."""
        rest = self.rest
        for pattern in EXEMPT:
            rest = re.sub(pattern, " ", rest, flags=re.DOTALL | re.MULTILINE if pattern[0] != "^" else re.MULTILINE)
        return [rest[max(0, at.start() - 40) : at.end() + 20].strip() for at in re.finditer(NUMBER, rest)]
