"""Texts with labels, from columns of a file: what a classifier is fitted to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from finetune.curation.blocks import sample
from finetune.data.faults import count, described, listed
from finetune.data.files import read_file
from finetune.errors import ConfigError, DataError

Labelled = tuple[list[str], list[str]]
"""Texts, and the label of each."""

HELD_OUT = 0.2
"""Share of the rows that is held out where no file of test rows is named."""

FEWEST = 20
"""Rows below which an accuracy says nothing."""


def read_labelled(path: Path, text: str, label: str) -> Labelled:
    """Two columns of a file of any known type; a label may be text, a number, true or false.

    Raises the errors of `read_file`, ConfigError where the rows have no such column, DataError naming every row whose
    text is no text or whose label is empty.
    """
    rows = read_file(path.expanduser(), str(path))
    for option, column in (("--text", text), ("--label", label)):
        if not any(column in value for _, value in rows):
            known = ", ".join(dict.fromkeys(key for _, value in rows for key in value))
            raise ConfigError(f"{path}: no row has a column {column!r}", f"{option} takes one of: {known}")
    faults = []
    for where, value in rows:
        if not isinstance(value.get(text), str):
            faults.append(f"{where}: {text} is {described(value.get(text))}")
        elif not isinstance(value.get(label), str | int | float) or value[label] == "":
            faults.append(f"{where}: {label} is {'empty' if value.get(label) == '' else described(value.get(label))}")
    if faults:
        hint = "every row has a text and a label"
        raise DataError(listed(f"{path}: {count(faults, 'row')} without one", faults), hint)
    return [value[text] for _, value in rows], [str(value[label]) for _, value in rows]


def held_out(found: Labelled, seed: int) -> tuple[Labelled, Labelled]:
    """Training rows and a seeded HELD_OUT of all rows."""
    texts, labels = found
    out = np.zeros(len(texts), bool)
    out[sample(len(texts), round(HELD_OUT * len(texts)), seed)] = True
    train, test = (
        ([texts[at] for at in np.flatnonzero(mask)], [labels[at] for at in np.flatnonzero(mask)])
        for mask in (~out, out)
    )
    return train, test


def require_classes(train: Labelled, test: Labelled, name: str) -> None:
    """Raises DataError where there is nothing to learn or too little to score."""
    if len(set(train[1])) < 2:
        raise DataError(f"{name}: every row has the label {train[1][0]!r}", "a classifier needs two labels and more")
    for rows, what in ((train, "training rows"), (test, "held-out rows")):
        if len(rows[0]) < FEWEST:
            raise DataError(
                f"{name}: {len(rows[0])} {what}", f"at least {FEWEST} are needed for a figure to say anything"
            )
