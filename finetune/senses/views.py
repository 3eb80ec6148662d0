"""What of an occurrence is looked at: two views, each a vector made of several parts of unit length.

A word's own state carries the word before its sense, and what is common in a corpus carries its style. So the words
around are weighed by their rarity (Arora et al. 2017: a / (a + p), p the token's share of the training rows), and where
one sense is learnt from several words, the word itself is hidden.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.embeddings import LayerEncoder, Occurrence, TokenStates

STAND_IN = "something"
"""Stands in for the word that is hidden: a text that the encoder has seen the like of, which [MASK] is not to one that
was trained on whole sentences."""

HALFWAY = 3e-4
"""Share of the training tokens at which a token weighs half."""

SENTENCE = 0.5
"""Weight of the sentence vector in the view that hides the word."""

LAST = 3
"""Layers, from the last, at which the word's own state is read."""


@dataclass(frozen=True)
class Rarity:
    """Weights of tokens: near 1 for those that the training rows have not, near 0 for their commonest."""

    counts: dict[int, int]

    @classmethod
    def of(cls, ids: Iterable[Sequence[int]]) -> Rarity:
        """From the tokens of the training rows."""
        counts: Counter[int] = Counter()
        for one in ids:
            counts.update(one)
        return cls(dict(counts))

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """Weights of tokens, (T,)."""
        total = max(1, sum(self.counts.values()))
        shares = np.array([self.counts.get(int(one), 0) for one in ids]) / total
        return HALFWAY / (HALFWAY + shares)


def hidden(encoder: LayerEncoder, occurrences: Sequence[Occurrence], rarity: Rarity) -> np.ndarray:
    """The context alone, its word hidden: rare words before and after the layers, and the sentence, (n, 3D). Two words
    in the same context have the same vector.

    The stand-in is weighed with the rare words. Where they are few it holds the mean near its own neutral place, so
    that a short sentence without a clue is not read as strong evidence.
    """

    def pool(tokens: TokenStates) -> np.ndarray:
        around = (tokens.context(rarity, layer, own=True) for layer in (0, -1))
        return np.concatenate([*map(unit, around), SENTENCE * unit(tokens.mean())])

    return encoder.encode([one.replaced(STAND_IN) for one in occurrences], pool)


def whole(encoder: LayerEncoder, occurrences: Sequence[Occurrence], rarity: Rarity) -> np.ndarray:
    """The word in its context: rare words around it before and after the layers, its own state after the LAST layers,
    and the sentence, (n, 6D)."""

    def pool(tokens: TokenStates) -> np.ndarray:
        around = (tokens.context(rarity, layer) for layer in (0, -1))
        own = (tokens.target(-depth) for depth in range(min(LAST, len(tokens.layers)), 0, -1))
        return np.concatenate([unit(part) for part in (*around, *own, tokens.mean())])

    return encoder.encode(occurrences, pool)


VIEWS = {"hidden": hidden, "whole": whole}
"""By the names under which a model is saved."""


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors scaled to unit length along the last axis; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
