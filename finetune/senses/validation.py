"""Accuracy on rows that a model was not fitted to: parts of the training rows held out in turn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from finetune.embeddings import LayerEncoder
from finetune.senses.model import fit
from finetune.senses.rows import Label, SenseRow

FOLDS = 5


def folds(rows: Sequence[SenseRow], number: int = FOLDS, seed: int = 0) -> np.ndarray:
    """A fold for each row, (n,): the rows of each sense of each word are dealt out evenly, equal texts together."""
    dealt = np.zeros(len(rows), int)
    texts: dict[tuple[str, Label], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, row in enumerate(rows):
        texts[row.lemma, row.label][row.occurrence.text].append(place)
    rng = np.random.default_rng(seed)
    for of_sense in texts.values():
        for turn, chosen in enumerate(rng.permutation(len(of_sense))):
            dealt[list(of_sense.values())[chosen]] = turn % number
    return dealt


def held_out_labels(rows: Sequence[SenseRow], parts: Sequence, encoder: LayerEncoder) -> list[Label | None]:
    """For each row the sense told by a model of the rows of all other parts; None where those rows lack its word or
    have it in one sense alone."""
    told: list[Label | None] = [None] * len(rows)
    for part in dict.fromkeys(parts):
        train = [row for row, one in zip(rows, parts, strict=True) if one != part]
        senses = defaultdict(set)
        for row in train:
            senses[row.lemma].add(row.label)
        usable = {lemma for lemma, found in senses.items() if len(found) > 1}
        places = [at for at, one in enumerate(parts) if one == part and rows[at].lemma in usable]
        if not places:
            continue
        model = fit([row for row in train if row.lemma in usable], encoder)
        for at, found in zip(places, model.predict([rows[at] for at in places], encoder), strict=True):
            told[at] = found.label
    return told
