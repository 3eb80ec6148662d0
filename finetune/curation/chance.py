"""What random selection of the same size gives: without it no figure of a selection means anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import hypergeom

from finetune.curation.blocks import Vectors, sample
from finetune.curation.clusters import entropy
from finetune.curation.neighbours import nearest_kept

DRAWS = 20
"""Random subsets, where no formula tells what they give."""

PROBES = 2000
"""Rows whose nearest kept row is sought, to measure how well a subset covers all."""


@dataclass(frozen=True)
class Chance:
    """A measure of a selection, and the same of random selections of its size: their mean, and the range in which 95 %
    of them lie."""

    measure: str
    selected: float
    random: float
    low: float
    high: float


def mean_of(measure: str, values_N: np.ndarray, chosen: np.ndarray) -> Chance:
    """The mean of `values` over the chosen rows. Random samples have the mean of all; its spread follows from theirs
    (Cochran 1977, 2.5: without replacement)."""
    values, size = np.asarray(values_N, np.float64), len(chosen)
    spread = values.std(ddof=1) * np.sqrt(1 / size - 1 / len(values)) if len(values) > 1 and size else 0.0
    mean = values.mean()
    return Chance(measure, float(values[chosen].mean()), float(mean), mean - 1.96 * spread, mean + 1.96 * spread)


def hits_of(measure: str, hits: int, *, having: int, size: int, count: int) -> Chance:
    """How many of `size` selected rows have a property that `having` of all `count` rows have (hypergeometric)."""
    law = hypergeom(count, having, size)
    return Chance(measure, float(hits), size * having / count, float(law.ppf(0.025)), float(law.ppf(0.975)))


def similarity_of_dropped(vectors_ND: Vectors, dropped: np.ndarray, *, seed: int) -> Chance:
    """Mean cosine similarity of what is dropped to the nearest row that is kept: high where little is lost by it."""
    count, size = len(vectors_ND), len(dropped)
    kept = np.ones((2, count), bool)
    kept[0, dropped] = False
    kept[1, sample(count, size, seed)] = False
    ours = nearest_kept(vectors_ND, dropped[sample(size, PROBES, seed)], kept[:1])[0]
    # Any row may be what random selection drops: each stands for it, whether that one drew it or not.
    theirs = nearest_kept(vectors_ND, sample(count, PROBES, seed), kept[1:])[0]
    mean, spread = float(theirs.mean()), 1.96 * float(theirs.std()) / size**0.5
    measure = "mean cosine similarity of a dropped row to the nearest kept one"
    return Chance(measure, float(ours.mean()), mean, mean - spread, min(1.0, mean + spread))


def balance_of(vectors_ND: Vectors, labels_N: np.ndarray, kept: np.ndarray, *, seed: int) -> list[Chance]:
    """Of a subset: clusters it has rows of, entropy over clusters, and the mean cosine distance of all rows to the
    nearest one in it; beside DRAWS random subsets."""
    count = len(labels_N)
    subsets = [kept, *(sample(count, len(kept), seed + 1 + draw) for draw in range(DRAWS))]
    masks = np.zeros((len(subsets), count), bool)
    for mask, rows in zip(masks, subsets, strict=True):
        mask[rows] = True
    probes = sample(count, PROBES, seed)
    distance = np.where(masks[:, probes], 0, 1 - nearest_kept(vectors_ND, probes, masks)).mean(axis=1)
    measures = {
        f"clusters covered, of {len(np.unique(labels_N))}": [len(np.unique(labels_N[rows])) for rows in subsets],
        "entropy over clusters, bits": [entropy(labels_N[rows]) for rows in subsets],
        "mean cosine distance of all rows to the nearest kept one": distance.tolist(),
    }
    return [_beside(measure, values[0], values[1:]) for measure, values in measures.items()]


def _beside(measure: str, selected: float, random: list[float]) -> Chance:
    low, high = np.quantile(random, [0.025, 0.975])
    return Chance(measure, float(selected), float(np.mean(random)), float(low), float(high))
