"""Copies among rows: exact ones by digest, near ones by MinHash and locality-sensitive hashing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from finetune.data.rules.fingerprints import WHOLE, Fingerprints

ALIKE = 0.8
"""Jaccard similarity of the words of two near copies (three in a row count as one)."""

ANSWERS_ALIKE = 0.5
"""And of their answers alone: two questions about one long text are no copies."""

BANDS = 20
"""Bands of 6 hashes each: a pair of similarity .8 shares one with probability .998, one of .5 with .27."""

BLOCK = 1 << 15
"""Pairs compared at a time, to hold no large array."""


def exact_copies(prints: Fingerprints) -> list[tuple[int, int]]:
    """Every row that has the texts of an earlier one, and the first of those: (copy, original), as indices."""
    _, first, which = np.unique(prints.digest, return_index=True, return_inverse=True)
    original = first[which]
    copies = np.flatnonzero(original != np.arange(len(original)))
    return [(int(copy), int(original[copy])) for copy in copies]


def near_copies(prints: Fingerprints) -> list[tuple[int, int, float]]:
    """Rows that have a better near copy, that copy and their similarity: (worse, better, similarity), as indices.

    Better is the row with fewer blanks around its texts, then the shorter (copies grow by what is wrapped around
    them), then the earlier. Exact copies are left out, all but the first.
    """
    order = np.lexsort((prints.line, prints.size, prints.untidy))
    _, first = np.unique(prints.digest, return_index=True)
    order = order[np.isin(order, first)]  # the best row first
    best: dict[int, tuple[int, float]] = {}
    for pairs in _candidates(prints.signature, order):
        new = [pair for pair in map(tuple, pairs.tolist()) if pair[0] not in best]
        for (worse, better), similarity in zip(new, _similarity(prints.signature, new), strict=True):
            if similarity >= ALIKE:
                best.setdefault(worse, (better, similarity))
    return [(worse, better, similarity) for worse, (better, similarity) in sorted(best.items())]


def _candidates(signature: np.ndarray, order: np.ndarray) -> Iterator[np.ndarray]:
    """For each band, pairs (worse, better) of rows that share it: every row with the best of its bucket and with the
    next better one. All pairs of a bucket would be too many where thousands of rows are alike."""
    width = WHOLE // BANDS
    mix = np.random.default_rng(0).integers(1, 1 << 62, width, dtype=np.uint64) | np.uint64(1)
    for band in range(BANDS):
        keys = (signature[order, band * width : (band + 1) * width] * mix).sum(axis=1, dtype=np.uint64)
        ranked = np.argsort(keys, kind="stable")
        starts = np.r_[True, keys[ranked][1:] != keys[ranked][:-1]][: len(ranked)]
        place = np.arange(len(ranked))
        head = np.maximum.accumulate(np.where(starts, place, 0))
        later = place[~starts]
        worse = order[ranked[later]]
        pairs = np.concatenate([np.c_[worse, order[ranked[other]]] for other in (head[later], later - 1)])
        yield np.unique(pairs, axis=0)


def _similarity(signature: np.ndarray, pairs: list[tuple[int, int]]) -> Iterator[float]:
    """Estimated similarity of pairs; zero where their answers are not alike."""
    for start in range(0, len(pairs), BLOCK):
        one, other = np.array(pairs[start : start + BLOCK]).T
        equal = signature[one] == signature[other]
        alike = equal[:, WHOLE:].mean(axis=1) >= ANSWERS_ALIKE
        yield from np.where(alike, equal[:, :WHOLE].mean(axis=1), 0.0).tolist()
