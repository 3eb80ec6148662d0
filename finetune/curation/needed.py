"""Is a language model needed for this task? What classic classifiers reach on held-out rows of labelled texts.

Four are tried: logistic regression and a linear SVM, each on TF-IDF and on the vectors of a sentence encoder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy.sparse import csr_matrix
from scipy.stats import binomtest
from sklearn.base import ClassifierMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

if TYPE_CHECKING:
    from finetune.embeddings import TextEncoder

NGRAMS = (2, 5)
"""TF-IDF counts runs of this many characters within words: they bear inflection and slips of the pen, and need no
spaces between words. On BANKING77 they are 1 point better than words."""

ENOUGH = 0.9
"""Accuracy from which, with its whole interval, the verdict is that the task can be had without a language model."""


@dataclass(frozen=True)
class Accuracy:
    """Share of held-out rows that are right, with Wilson's 95 % interval over rows."""

    name: str
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Needed:
    """The answer: `majority` always says the commonest label; `tried` has the four classifiers."""

    train: int
    test: int
    labels: int
    majority: Accuracy
    tried: list[Accuracy]

    @property
    def best(self) -> Accuracy:
        """The most accurate of the four, of equals the first: the cheapest."""
        return max(self.tried, key=lambda one: one.accuracy)

    @property
    def verdict(self) -> str:
        """The answer in two sentences."""
        best, majority = self.best, self.majority
        found = (
            f"{best.name} is right on {best.accuracy:.1%} of {self.test:,} held-out rows ({best.low:.1%} to "
            f"{best.high:.1%}), the commonest label on {majority.accuracy:.1%}. "
        )
        if best.low <= majority.high:
            return found + "These classifiers learn nothing here: the labels are not in the words, or are too few."
        left = f"at most {1 - best.accuracy:.1%} is left for a language model to gain"
        if best.low >= ENOUGH:
            return found + f"No language model is needed: {left}."
        return found + f"A language model may be worth a try: {left}."

    def show(self, console: Console) -> None:
        """Prints the accuracies and the verdict."""
        title = f"{self.labels} labels, {self.train:,} training rows, {self.test:,} held out"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        table.add_column("classifier")
        for column in ("accuracy", "95 % interval"):
            table.add_column(column, justify="right")
        for one in (self.majority, *self.tried):
            table.add_row(escape(one.name), f"{one.accuracy:.3f}", f"{one.low:.3f} to {one.high:.3f}")
        console.print(table, "", sep="\n")
        console.print(self.verdict, markup=False, highlight=False, soft_wrap=True)

    def to_json(self) -> dict[str, Any]:
        """The figures and the verdict."""
        return asdict(self) | {"best": self.best.name, "verdict": self.verdict}


def needed(
    train: Sequence[str], train_labels: Sequence[str], test: Sequence[str], test_labels: Sequence[str],
    encoder: TextEncoder,
) -> Needed:  # fmt: skip
    """Fits the four classifiers to the training rows and scores them on the others; there are two labels and more."""
    inputs = {
        "TF-IDF": features(train, test),
        encoder.name: (encoder.encode(train), encoder.encode(test)),
    }
    truth = np.asarray(test_labels)
    tried = [
        scored(f"{model} on {features}", classifier.fit(fitted, train_labels).predict(held_out) == truth)
        for features, (fitted, held_out) in inputs.items()
        for model, classifier in classifiers()
    ]
    commonest, _ = Counter(train_labels).most_common(1)[0]
    majority = scored("commonest label", truth == commonest)
    return Needed(len(train), len(test), len(set(train_labels) | set(test_labels)), majority, tried)


def features(train: Sequence[str], test: Sequence[str]) -> tuple[csr_matrix, csr_matrix]:
    """TF-IDF of both, with the vocabulary and frequencies of the training rows."""
    words = TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=NGRAMS).fit(train)
    return words.transform(train), words.transform(test)


def classifiers() -> list[tuple[str, ClassifierMixin]]:
    """Both linear. A weak penalty suits rows of unit length: at C = 1 logistic regression is 2 points lower on
    BANKING77's vectors."""
    return [
        ("logistic regression", LogisticRegression(C=10, max_iter=1000)),
        ("linear SVM", LinearSVC(random_state=0)),
    ]


def scored(name: str, right: np.ndarray) -> Accuracy:
    """The share of True, with its interval (Wilson 1927)."""
    found = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return Accuracy(name, float(right.mean()), float(found.low), float(found.high))
