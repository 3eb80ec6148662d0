"""What every disambiguator is held against: the commonest sense, and the words around without their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from finetune.senses.rows import Label, SenseRow, by_lemma


def commonest(counts: Mapping[Label, int]) -> Label:
    """The label with the most rows; of equals the first."""
    return max(counts, key=counts.__getitem__)


def majority(train: Sequence[SenseRow], test: Sequence[SenseRow]) -> list[Label]:
    """For each test row the commonest sense of its word."""
    found = {lemma: commonest(Counter(row.label for row in rows)) for lemma, rows in by_lemma(train).items()}
    return [found[row.lemma] for row in test]


@dataclass(frozen=True)
class BagOfWords:
    """Logistic regression of one word's senses on TF-IDF of the V words of its training rows, in which senses weigh
    alike: `rarities` (V), `weights` (K, V), `biases` (K)."""

    labels: list[Label]
    words: list[str]
    rarities: np.ndarray
    weights: np.ndarray
    biases: np.ndarray

    @classmethod
    def fit(cls, rows: Sequence[SenseRow]) -> BagOfWords:
        """From labelled rows of one word; with one sense it always says that."""
        labels = list(dict.fromkeys(row.label for row in rows))
        vectorizer = _vectorizer()
        counts = vectorizer.fit_transform([row.occurrence.text for row in rows])
        words, rarities = vectorizer.get_feature_names_out().tolist(), vectorizer.idf_.astype(np.float32)
        weights, biases = np.zeros((len(labels), len(words)), np.float32), np.zeros(len(labels), np.float32)
        if len(labels) > 1:
            model = LogisticRegression(C=10, max_iter=1000, class_weight="balanced")
            model.fit(counts, [labels.index(row.label) for row in rows])
            # of two labels scikit-learn keeps the second one's weights alone
            weights[-len(model.coef_) :], biases[-len(model.coef_) :] = model.coef_, model.intercept_
        return cls(labels, words, rarities, weights, biases)

    def predict(self, rows: Sequence[SenseRow]) -> list[Label]:
        """The sense of each row."""
        vectorizer = _vectorizer(vocabulary={word: at for at, word in enumerate(self.words)})
        vectorizer.idf_ = self.rarities
        scores = vectorizer.transform([row.occurrence.text for row in rows]) @ self.weights.T + self.biases
        return [self.labels[at] for at in scores.argmax(1)]


def _vectorizer(**options: object) -> TfidfVectorizer:
    """Any run of letters and digits is a word, so that every marked word has one."""
    return TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+", **options)


def bag_of_words(train: Sequence[SenseRow], test: Sequence[SenseRow]) -> list[Label]:
    """For each test row what a bag of words says, one fitted to each word."""
    models = {lemma: BagOfWords.fit(rows) for lemma, rows in by_lemma(train).items()}
    return [models[row.lemma].predict([row])[0] for row in test]
