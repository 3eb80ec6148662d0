"""How far new rows lie outside a set, by distance and by Isolation Forest, and how well either tells them apart.

`outliers.py` ranks the rows of one set among themselves; here what is scored was not fitted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(fitted rows, tested rows) -> how far each tested row lies outside."""

NEIGHBOURS = 5
"""Neighbours that a distance is the mean of: scikit-learn's default for k-NN."""


def forest(fitted: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """Isolation Forest with scikit-learn's settings: 100 trees of 256 rows."""
    return -IsolationForest(random_state=0).fit(fitted).score_samples(tested)


def distance(fitted: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """Mean distance to the nearest fitted rows."""
    return NearestNeighbors(n_neighbors=NEIGHBOURS).fit(fitted).kneighbors(tested)[0].mean(1)


def auc(score: Score, fitted: np.ndarray, inside: np.ndarray, others: np.ndarray) -> float:
    """ROC AUC: how often a row of `others` scores above one of `inside`; 0.5 is chance."""
    truth = np.repeat([0, 1], [len(inside), len(others)])
    return float(roc_auc_score(truth, score(fitted, np.vstack([inside, others]))))
