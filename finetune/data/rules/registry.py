"""All rules by name, and which of them run."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from finetune.data.rules import absent, answers, personal, residue
from finetune.data.rules.rule import Rule
from finetune.data.rules.size import too_long
from finetune.errors import ConfigError

MAX_LENGTH = 2048
"""Tokens a row may have where no configuration says so: the default of data.max_length."""

RULES: dict[str, Rule] = {
    rule.name: rule for rule in (*absent.RULES, *residue.RULES, *answers.RULES, too_long(MAX_LENGTH), *personal.RULES)
}
"""Rules that look at one row. All are on by default, also the one for personal data: a finding refuses nothing, and
such data is found only by who looks for it."""

FAULTS = {"untrainable": "the loader refuses the row: no answer, an empty one, turns that cannot be read"}
"""What is said of a row that cannot be read at all. It has no switch."""

ACROSS = {
    "exact_duplicate": "the row has the same texts as an earlier one",
    "near_duplicate": "the row has nearly the same texts as another, which is tidier, shorter or earlier",
}
"""Rules that compare rows with each other."""


def chosen(only: Iterable[str] | None = None, without: Iterable[str] = ()) -> frozenset[str]:
    """Names of the rules that run: those named by `only`, or the default ones, less `without`. Raises ConfigError."""
    default = [name for name, rule in RULES.items() if rule.default] + list(ACROSS)
    names = set(default if only is None else map(_known, only)) - set(map(_known, without))
    if not names:
        raise ConfigError("no rule is left to run", f"known rules: {', '.join([*RULES, *ACROSS])}")
    return frozenset(names)


def row_rules(names: frozenset[str], max_length: int) -> list[Rule]:
    """The rules of these names that look at one row, in their order."""
    known = RULES | {"too_long": too_long(max_length)}
    return [rule for name, rule in known.items() if name in names]


def _known(name: str) -> str:
    known = [*RULES, *ACROSS]
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(f"unknown rule {name!r}", f"{hint}known rules: {', '.join(known)}")
