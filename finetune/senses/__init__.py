"""Which sense a word has where it stands, and how well that is told.

rows.py        marked words, every fault of every row named
views.py       what of an occurrence is looked at: the context alone, or the word in it
nearest.py     nearest sense: centroids in the metric of the scatter within senses, cosine centroids, k-NN
model.py       which words share senses; fitting and telling them
saving.py      a fitted model on disk
induced.py     multi-sense embeddings: occurrences clustered, senses named by labelled rows
glosses.py     zero-shot by definitions
baselines.py   the commonest sense, and a bag of words
validation.py  parts of the training rows held out in turn
terms.py       chosen terms, and where they stand in a text
usage.py       the senses that a term is used in, told or induced
collisions.py  senses that two sets do not share, and those that collide in one
forgetting.py  base and tuned model on the sentences of probe.jsonl
scores.py      accuracy and recall with intervals, confusion, pairs, separation
minimal_pairs.py  pairs of sentences that differ in the sense of one word
senses_lab.py, senses_tables.py, senses_plots.py  the study of docs/fundamentals/word-senses.md
"""

from finetune.senses.model import Prediction, SenseModel, fit
from finetune.senses.rows import SenseRow, require_known, require_senses, sense_rows
from finetune.senses.saving import load, require_free, require_same, save

__all__ = [
    "Prediction",
    "SenseModel",
    "SenseRow",
    "fit",
    "load",
    "require_free",
    "require_known",
    "require_same",
    "require_senses",
    "save",
    "sense_rows",
]
