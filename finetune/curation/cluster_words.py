"""The words that tell a cluster of texts from the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer


def characteristic_words(texts: Sequence[str], labels_N: np.ndarray, most: int = 4) -> list[list[str]]:
    """For each cluster its words of greatest mean TF-IDF beyond that of all texts, the first the most telling; fewer
    than `most` where no others are above it. Words that all clusters share fall out, in any language."""
    try:
        weights = TfidfVectorizer(sublinear_tf=True, max_features=20_000).fit(texts)
    except ValueError:  # no text has a word
        return [[] for _ in range(labels_N.max() + 1)]
    found, words = weights.transform(texts), weights.get_feature_names_out()
    overall = np.asarray(found.mean(axis=0)).ravel()
    telling = []
    for cluster in range(labels_N.max() + 1):
        beyond = np.asarray(found[labels_N == cluster].mean(axis=0)).ravel() - overall
        best = np.argsort(-beyond, kind="stable")[:most]
        telling.append([str(words[word]) for word in best if beyond[word] > 0])
    return telling
