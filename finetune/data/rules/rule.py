"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from finetune.data.rules.view import Texts

EXCERPT = 60
"""Characters of a row that a finding shows."""


@dataclass(frozen=True)
class Rule:
    """A defect that one row shows by itself.

    `find` gives the detail of a finding, in words or as the passage that shows it; None where the row has no such
    defect.
    """

    name: str
    description: str
    find: Callable[[Texts], str | None]
    default: bool = True


def excerpt(text: str) -> str:
    """The text on one line, cut where it runs on."""
    line = " ".join(text[: 4 * EXCERPT].split())
    return line if len(line) <= EXCERPT else line[: EXCERPT - 1] + "…"
