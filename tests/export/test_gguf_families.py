"""What llama.cpp says with a GGUF file is what transformers says, for every family, position scaling and tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import spoken
from families import FAMILIES
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from finetune.errors import ModelError
from finetune.export import gguf_families, gguf_file, gguf_tokenizer, llama_cpp, write_gguf

# scripts/test installs xllamacpp with finetune[dev]; its wheels are for fewer systems than finetune is.
pytestmark = pytest.mark.skipif(not llama_cpp.installed(), reason="neither xllamacpp nor llama-cpp-python is installed")
PACKAGE = next(iter(llama_cpp.installed()), "")
WINDOW = {"sliding_window": 8}
SHAPES = {
    "llama2": FAMILIES["llama2"],
    "llama2_linear": FAMILIES["llama2"] | {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "llama3": FAMILIES["llama3"],
    "llama3_tied": FAMILIES["llama3_tied"],
    "llama_biases": FAMILIES["llama2"] | {"attention_bias": True},
    "mistral": FAMILIES["mistral"],
    "qwen2": FAMILIES["qwen2"],
    "qwen3": FAMILIES["qwen3"],
    "gemma2": FAMILIES["gemma2"] | WINDOW,
    "gemma3_text": FAMILIES["gemma3_text"] | WINDOW,
    "olmo2": FAMILIES["olmo2"],
    "phi3": FAMILIES["phi3"],
    "phi4": FAMILIES["phi4"],
}


@pytest.fixture(scope="module")
def tokenizer():
    return spoken.fast(spoken.byte_level())


def test_every_family_is_here():
    assert {shape["model_type"] for shape in SHAPES.values()} == set(gguf_families.FAMILIES)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_family(shape, tokenizer, tmp_path: Path):
    expected = spoken.said(tmp_path, spoken.model(SHAPES[shape], tokenizer), tokenizer)
    assert len(set(expected[0])) == len(spoken.PROMPTS), "equal answers would prove nothing"
    assert spoken.llama_cpp_said(PACKAGE, tmp_path) == expected
