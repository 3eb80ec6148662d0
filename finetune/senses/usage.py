"""In which senses a term is used: told by the nearest definition or example, or induced where contexts fall apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.cluster import KMeans

from finetune.embeddings import LayerEncoder, Occurrence
from finetune.senses.induced import induce
from finetune.senses.terms import Term
from finetune.senses.views import unit

MARGIN = 0.02
"""Cosines of the nearest two senses that differ by less leave an occurrence undecided. On king_senses and CoarseWSD-20,
told by two phrases a sense, that leaves a tenth, in which two fifths of the errors are (benchmarks/senses_terms.py)."""

FAR = 0.1
"""Cosine of the nearest sense below which an occurrence is of none that was told; unrelated sentences are near 0."""

FEWEST = 20
"""Different contexts below which senses are not induced."""

SAMPLE = 1_000
"""Contexts that the test for one sense is made on."""

COMPONENTS = 10
"""Principal components, at most, in which one sense is tested for, and contexts for each of them: with fewer for each,
a Gaussian and two senses look alike."""

NULLS = 20
"""Samples of one Gaussian that the contexts are held against."""

SPLIT = 2.33
"""Standard deviations beyond them at which contexts fall apart: one in a hundred samples of one Gaussian does. Of words
of CoarseWSD-20 and king_senses, equally often in two senses, a third do with 40 contexts, three in four with 100 and
all with 200; of 252 samples of one sense none did (benchmarks/senses_terms.py)."""

UNDECIDED, NONE = -1, -2
"""In place of a sense: two are equally near; all are far."""


@dataclass(frozen=True)
class Usage:
    """The sense of each occurrence: `of` (n,) numbers in `senses`, or UNDECIDED or NONE; `nearest` (n, 2), the two
    nearest. `apart`: how far contexts fall apart beyond those of one sense, in standard deviations; None where senses
    were told."""

    senses: list[str]
    of: np.ndarray
    nearest: np.ndarray
    apart: float | None = None

    def only(self, places: Sequence[int]) -> Usage:
        """That of some of the occurrences."""
        return replace(self, of=self.of[list(places)], nearest=self.nearest[list(places)])


def contexts(encoder: LayerEncoder, occurrences: Sequence[Occurrence]) -> np.ndarray:
    """The mean state of the tokens of each, of unit length, (n, D)."""
    return unit(encoder.encode(occurrences, lambda tokens: tokens.mean()))


def told(term: Term, encoder: LayerEncoder, vectors: np.ndarray) -> Usage:
    """Occurrences by the definition or example with the largest cosine."""
    labels, references = term.references()
    senses = list(term.senses)
    cosines = vectors @ contexts(encoder, references).T
    of_sense = [[at for at, label in enumerate(labels) if label == sense] for sense in senses]
    best = np.stack([cosines[:, own].max(1) for own in of_sense], axis=1)
    nearest = np.argsort(-best, axis=1, kind="stable")[:, :2]
    first, second = np.take_along_axis(best, nearest, axis=1).T
    of = np.where(first < FAR, NONE, np.where(first - second < MARGIN, UNDECIDED, nearest[:, 0]))
    return Usage(senses, of, nearest)


def induced(occurrences: Sequence[Occurrence], vectors: np.ndarray, seed: int = 0) -> Usage:
    """Occurrences clustered, by `induced.induce`, where their contexts fall apart (`apart`); else all in one sense.
    Equal contexts count once. Senses are numbered from the commonest."""
    _, first = np.unique([one.text for one in occurrences], return_index=True)
    different, n = vectors[np.sort(first)], len(vectors)
    evidence = apart(different, seed) if len(different) >= FEWEST else 0.0
    if evidence < SPLIT:
        return Usage(["1"], np.zeros(n, int), np.zeros((n, 2), int), evidence)
    _, places = np.unique(induce(different, [""] * len(different), seed).assign(vectors), return_inverse=True)
    of = np.argsort(np.argsort(-np.bincount(places), kind="stable"))[places]
    return Usage([str(number + 1) for number in range(of.max() + 1)], of, np.stack([of, of], axis=1), evidence)


def apart(vectors: np.ndarray, seed: int = 0) -> float:
    """How much more of their variance two clusters explain than of one Gaussian with the same covariance, in standard
    deviations of that (SigClust, Liu et al. 2008), on the first principal components."""
    rng = np.random.default_rng(seed)
    chosen = vectors[rng.permutation(len(vectors))[:SAMPLE]]
    left, sizes, _ = np.linalg.svd(chosen - chosen.mean(0), full_matrices=False)
    sizes = sizes[: min(COMPONENTS, max(2, len(chosen) // COMPONENTS))]
    if not sizes.any():
        return 0.0
    drawn = rng.standard_normal((NULLS, len(chosen), len(sizes))) * sizes / np.sqrt(len(chosen) - 1)
    nulls = np.array([_explained(one, seed) for one in drawn])
    return float((_explained(left[:, : len(sizes)] * sizes, seed) - nulls.mean()) / max(nulls.std(ddof=1), 1e-12))


def _explained(points: np.ndarray, seed: int) -> float:
    """Share of the variance that two clusters explain."""
    inertia = KMeans(2, n_init=4, random_state=seed).fit(points).inertia_
    return 1 - inertia / float(((points - points.mean(0)) ** 2).sum())
