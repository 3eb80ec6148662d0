"""Zero-shot: the sense whose definition lies nearest to the sentence. No labelled occurrence is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from finetune.embeddings import LayerEncoder, Occurrence
from finetune.senses.rows import Label
from finetune.senses.views import unit


def nearest_gloss(
    encoder: LayerEncoder, lemma: str, occurrences: Sequence[Occurrence], glosses: Mapping[Label, Sequence[str]]
) -> list[Label]:
    """For each occurrence the label one of whose glosses has the largest cosine with its sentence. Glosses are read as
    "lemma: definition", so that both name the word."""
    labels = [label for label, texts in glosses.items() for _ in texts]
    texts = [f"{lemma}: {text}".lower() for found in glosses.values() for text in found]
    definitions = unit(encoder.sentences(texts))
    nearest = (unit(encoder.sentences([one.text for one in occurrences])) @ definitions.T).argmax(1)
    return [labels[at] for at in np.asarray(nearest)]
