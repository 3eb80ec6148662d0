"""What llama.cpp says with a GGUF file is what transformers says, for every family and scaling of positions."""

from __future__ import annotations

from pathlib import Path

import pytest
import spoken
from families import FAMILIES

from finetune.errors import ModelError
from finetune.export import gguf_families, gguf_file, llama_cpp, write_gguf

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


def test_without_llama_s_own_order_of_rows_the_text_differs(tokenizer, tmp_path: Path, monkeypatch):
    plain = gguf_families.FAMILIES["llama"]._replace(rotates_neighbours=False)
    monkeypatch.setitem(gguf_families.FAMILIES, "llama", plain)
    expected = spoken.said(tmp_path, spoken.model(SHAPES["llama2"], tokenizer), tokenizer)
    assert spoken.llama_cpp_said(PACKAGE, tmp_path)[0] != expected[0]


@pytest.mark.parametrize("shape", ["llama2_linear", "llama3"])
def test_without_the_scaling_of_positions_the_text_differs(shape, tokenizer, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(gguf_file, "llama3_frequencies", lambda config: None)
    monkeypatch.setattr("gguf.GGUFWriter.add_rope_scaling_type", lambda *given: None)
    monkeypatch.setattr("gguf.GGUFWriter.add_rope_scaling_factor", lambda *given: None)
    expected = spoken.said(tmp_path, spoken.model(SHAPES[shape], tokenizer), tokenizer)
    assert spoken.llama_cpp_said(PACKAGE, tmp_path)[0] != expected[0]


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ("mixtral", {}, "no GGUF is written of model_type 'mixtral', only of llama, mistral, "),
        ("gemma2", {"query_pre_attn_scalar": 64}, "no GGUF is written of query_pre_attn_scalar 64"),
        (
            "gemma2",
            {"layer_types": ["full_attention"] * 2},
            "no GGUF is written of these layer_types: .'full_attention",
        ),
        (
            "llama2",
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            "no GGUF is written of rope_type 'dynamic'",
        ),
    ],
)
def test_what_is_not_known_is_refused(shape, changes, message, tokenizer, tmp_path: Path):
    spoken.model(FAMILIES[shape] | changes, tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        write_gguf(tmp_path, tmp_path / "model.gguf", "tiny")
    assert "convert_hf_to_gguf.py" in caught.value.hint
