"""What is built is what was described, for every family and every way to load, quantise and adapt it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from finetune.config import RunConfig
from finetune.model import build_model
from finetune.spec import RunSpec, describe, list_tensors

torch.set_num_threads(1)  # the models are tiny: on a busy machine threads would only wait for each other

SIZES = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
FAMILIES = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "mistral": {},
    "olmo2": {},
    "gemma2": {"head_dim": 16},
    "gemma3_text": {"head_dim": 16},
    "phi3": {"original_max_position_embeddings": 64},
}


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory):
    """Saves a seeded model of a family once, and returns its directory."""
    root = tmp_path_factory.mktemp("families")

    def save(family: str, tied: bool) -> Path:
        folder = root / f"{family}-{'tied' if tied else 'untied'}"
        if not folder.exists():
            torch.manual_seed(0)
            config = AutoConfig.for_model(family, **SIZES, **FAMILIES[family], tie_word_embeddings=tied)
            AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
        return folder

    return save


def described(folder: Path, **sections: dict) -> RunSpec:
    """A description of a run on the CPU: fused projections have their own names, and Gemma 2 has no SDPA."""
    model = {"name_or_path": str(folder), "attention": "eager" if "gemma2" in folder.name else "auto"}
    lora = {"r": 4, "alpha": 8.0} | ({"target_modules": "all-linear"} if "phi3" in folder.name else {})
    tree = {
        "model": model | sections.get("model", {}),
        "quantization": sections.get("quantization", {}),
        "lora": lora | sections.get("lora", {}),
        "data": {"train": "rows.jsonl", "max_length": 64},
        "training": {"optimizer": "adamw_torch"},
        "hardware": {"device": "cpu"},
        "output_dir": "run",
    }
    return describe(RunConfig.model_validate(tree))


def check(spec: RunSpec) -> torch.nn.Module:
    """Builds, compares every tensor with the description, and takes one step forward and back."""
    model = build_model(spec)
    assert list(list_tensors(model)) == list(spec.tensors)
    assert model.get_nb_trainable_parameters() == (spec.parameters.trainable, spec.parameters.total)
    ids = torch.arange(3, 40)[None]
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    assert float(loss.detach()) == pytest.approx(torch.tensor(96.0).log().item(), abs=1.0)  # knows nothing yet
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    return model


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("weights", ["pretrained", "random"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_of_every_family_is_as_described(saved, family, weights, tied):
    spec = described(saved(family, tied), model={"weights": weights})
    check(spec)
    assert any(tensor.name.endswith("lm_head.weight") for tensor in spec.tensors) != tied
    assert spec.parameters.quantized > 0


VARIANTS = {
    "single quantisation": {"quantization": {"double_quant": False}},
    "no quantisation": {"quantization": {"type": "none"}},
    "float32": {"model": {"dtype": "float32"}, "quantization": {"compute_dtype": "float32"}},
    "bfloat16 weights, float32 products": {
        "model": {"dtype": "bfloat16"},
        "quantization": {"compute_dtype": "float32"},
    },
    "float32 weights, bfloat16 products": {
        "model": {"dtype": "float32"},
        "quantization": {"compute_dtype": "bfloat16"},
    },
    "bfloat16, not quantised": {"model": {"dtype": "bfloat16"}, "quantization": {"type": "none"}},
    "unquantised in float32": {"model": {"dtype": "bfloat16", "fp32_unquantized": True}},
    "DoRA": {"lora": {"use_dora": True}},
    "DoRA, not quantised": {"lora": {"use_dora": True}, "quantization": {"type": "none"}},
    "rank-stabilised, all linear layers": {"lora": {"use_rslora": True, "target_modules": "all-linear"}},
    "bfloat16 adapter": {"lora": {"dtype": "bfloat16"}},
    "gaussian": {"lora": {"init": "gaussian"}},
}


@pytest.mark.parametrize("weights", ["pretrained", "random"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_tensor_of_every_variant_is_as_described(saved, name, weights):
    changes = VARIANTS[name]
    for family, tied in (("llama", False), ("gemma3_text", True), ("phi3", False)):
        sections = changes | {"model": changes.get("model", {}) | {"weights": weights}}
        check(described(saved(family, tied), **sections))


def test_an_adapter_starts_at_zero_and_pretrained_weights_are_those_of_the_file(saved):
    folder = saved("llama", False)
    model = build_model(described(folder, quantization={"type": "none", "compute_dtype": "float32"}))
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(3, 40)[None]
    assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)


def values(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_random_weights_depend_on_the_seed_alone(saved, family):
    spec = described(saved(family, True), model={"weights": "random"})
    one = values(build_model(spec))
    torch.rand(7)  # what was drawn before does not matter
    other = values(build_model(spec))
    assert all(torch.equal(one[name], other[name]) for name in one)
    seeded = spec.config.training.model_copy(update={"seed": 7})
    third = values(build_model(describe(spec.config.model_copy(update={"training": seeded}))))
    for part in ("layers.0.mlp.up_proj.weight", "embed_tokens.weight", "q_proj.lora_A.default.weight"):
        name = next(name for name in one if name.endswith(part))
        assert not torch.equal(one[name], third[name])


def test_an_adapter_depends_on_the_seed_and_not_on_how_the_base_was_made(saved):
    adapters = [
        {name: tensor for name, tensor in values(build_model(described(saved("llama", True), **sections))).items()
         if "lora_A" in name}
        for sections in ({}, {"model": {"weights": "random"}}, {"quantization": {"type": "none"}})
    ]  # fmt: skip
    assert len(adapters[0]) == 8
    for other in adapters[1:]:
        assert all(torch.equal(adapters[0][name], other[name]) for name in adapters[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_random_model_is_made_as_its_family_makes_it(saved, family):
    """Norms, rotary frequencies and embedding scales are those of a fresh model of transformers, matrices as wide."""
    folder = saved(family, False)
    built = values(build_model(described(folder, model={"weights": "random"}, quantization={"type": "none"})))
    attention = "eager" if family == "gemma2" else "sdpa"
    fresh = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation=attention)
    for name, expected in values(fresh).items():
        built_name = next(key for key in built if key.replace(".base_layer", "") == f"base_model.model.{name}")
        found = built[built_name].float()
        if expected.dim() < 2:
            assert torch.allclose(found, expected.float(), rtol=1e-2), name
        else:
            assert float(found.std()) == pytest.approx(float(expected.std()), rel=0.1), name
