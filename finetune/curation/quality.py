"""Quality learned from a few labelled rows: logistic regression, and a linear SVM beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.svm import LinearSVC

from finetune.curation.blocks import Vectors, blocks_of
from finetune.errors import DataError

FEWEST = 10
"""Labels of either kind from which a classifier is learned: with fewer, what is held out measures nothing."""

FOLDS = 5


@dataclass(frozen=True)
class HeldOut:
    """What a classifier does on labelled rows that it has not seen, in cross-validation: `auc` is the probability that
    it ranks a good row above a bad one; `hits` of the `dropped` rows are bad, of `bad` in all `labels`."""

    auc: float
    dropped: int
    hits: int
    bad: int
    labels: int

    @property
    def precision(self) -> float:
        """Share of the dropped rows that is bad; of random selection it is the share of bad rows."""
        return self.hits / max(1, self.dropped)

    @property
    def recall(self) -> float:
        """Share of the bad rows that is dropped; of random selection it is the share of dropped rows."""
        return self.hits / self.bad


@dataclass(frozen=True)
class Quality:
    """A classifier, and what it and the SVM do on held-out rows."""

    model: LogisticRegression
    logistic: HeldOut
    svm: HeldOut

    def probability(self, vectors_ND: Vectors) -> np.ndarray:
        """Of being good, (N,) float32, as if good and bad rows were equally frequent."""
        found = [self.model.predict_proba(block)[:, 1] for _, block in blocks_of(vectors_ND)]
        return np.concatenate(found).astype(np.float32)


def learn_quality(vectors_ND: Vectors, good_N: np.ndarray, threshold: float, *, seed: int) -> Quality:
    """Learns which rows are good (boolean, N); a row is dropped below the probability `threshold`. The SVM, which has
    no probabilities, drops at its own boundary. Raises DataError where there are fewer than FEWEST labels of a kind."""
    good, bad = int(good_N.sum()), int((~good_N).sum())
    if min(good, bad) < FEWEST:
        raise DataError(
            f"labels of {good} good and {bad} bad rows are too few to learn quality from",
            f"label at least {FEWEST} rows of each kind; a few dozen make a useful classifier",
        )
    # Weighted by class, so that a probability of .5 means the same whatever the shares of good and bad among labels.
    logistic = LogisticRegression(C=10, class_weight="balanced", max_iter=1000)
    svm = LinearSVC(class_weight="balanced", random_state=seed)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    probability = cross_val_predict(logistic, vectors_ND, good_N, cv=folds, method="predict_proba")[:, 1]
    margin = cross_val_predict(svm, vectors_ND, good_N, cv=folds, method="decision_function")
    return Quality(
        model=logistic.fit(vectors_ND, good_N),
        logistic=_held_out(good_N, probability, threshold),
        svm=_held_out(good_N, margin, 0.0),
    )


def _held_out(good_N: np.ndarray, score_N: np.ndarray, threshold: float) -> HeldOut:
    dropped = score_N < threshold
    return HeldOut(
        auc=float(roc_auc_score(good_N, score_N)),
        dropped=int(dropped.sum()),
        hits=int((dropped & ~good_N).sum()),
        bad=int((~good_N).sum()),
        labels=len(good_N),
    )
