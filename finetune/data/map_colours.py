"""How a map's points are coloured and filtered: by cluster, by defect, by loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from finetune.curation.map_page import Colouring
from finetune.data.findings import Finding

LOSS_BINS = 5
"""Equally full ranges of loss."""


def by_cluster(labels_N: np.ndarray, words: Sequence[str]) -> Colouring:
    """One category a cluster, under its words."""
    return Colouring("cluster", list(words), [[int(label)] for label in labels_N])


def by_defect(rows: Sequence[int], findings: Sequence[Finding]) -> Colouring:
    """One category a rule that found any of the rows, the most frequent first, after the rows that none did."""
    named: dict[int, set[str]] = defaultdict(set)
    for finding in findings:
        named[finding.row].add(finding.rule)
    rules = [rule for row in rows for rule in named[row]]
    labels = ["none", *sorted(set(rules), key=lambda rule: (-rules.count(rule), rule))]
    return Colouring("defect", labels, [sorted(map(labels.index, named[row])) or [0] for row in rows], quiet=(0,))


def by_loss(rows: Sequence[int], losses: Mapping[int, float]) -> Colouring:
    """Ranges of loss, from low to high, after the rows of which it is not known."""
    values = np.array([losses[row] for row in rows if row in losses])
    edges = np.unique(np.quantile(values, np.linspace(0, 1, LOSS_BINS + 1))) if len(values) else np.array([])
    inner = edges[1:-1]
    ends = [edges[0], *inner, edges[-1]] if len(edges) else []
    labels = ["no loss", *(f"{low:.3f} to {high:.3f}" for low, high in pairwise(ends))]
    of = [[1 + int(np.searchsorted(inner, losses[row], "right"))] if row in losses else [0] for row in rows]
    return Colouring("loss", labels, of, ordered=True, quiet=(0,))
