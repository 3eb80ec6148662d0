"""The section `curation:` alone, as a file of rows takes it."""

from __future__ import annotations

import pytest

from finetune.config import CurationConfig, load_curation
from finetune.errors import ConfigError


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_curation(overrides)
    return str(caught.value)


def test_by_default_rules_alone() -> None:
    assert load_curation() == CurationConfig()
    assert not load_curation(["curation.rules=[loop]"]).needs_vectors


@pytest.mark.parametrize(
    "override", ["leakage=0.9", "labels=good.jsonl", "semantic_duplicates=0.9", "outliers=0.01", "keep=100"]
)
def test_each_step_of_these_needs_vectors(override: str) -> None:
    assert load_curation([f"curation.{override}"]).needs_vectors


def test_keys_of_other_sections_are_refused() -> None:
    text = refused("curation.keep=5", "data.max_length=9")
    assert "'data.max_length=9' does not set a key of curation" in text
    assert "a file of rows takes curation.key=value alone; other keys need a configuration" in text


def test_every_problem_is_told_at_once() -> None:
    text = refused("curation.outlier=0.1", "curation.leakage=1.5", "curation.keep=0")
    assert "3 problems" in text
    assert "curation.outlier: unknown key; did you mean outliers?" in text
    assert "curation.leakage: input should be less than or equal to 1; found 1.5" in text
    assert "curation.keep: input should be greater than 0; found 0" in text


def test_quality_is_learned_from_labels() -> None:
    assert "curation.quality=0.3 needs curation.labels to learn it from" in refused("curation.quality=0.3")
    assert load_curation(["curation.quality=0.3", "curation.labels=some.jsonl"]).quality == 0.3
