"""Models and settings that do not go together: refused on the description, with the value found and what to do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, write_family

from finetune import cli
from finetune.config import RunConfig
from finetune.errors import ConfigError, ModelError
from finetune.model import build_model
from finetune.spec import Device, RunSpec, describe

CARD = Device("cuda", "a card", 24 * 2**30, bf16=True, present=False)
OWN = "fetch the model's own config.json"
JSON = "config.json must be a JSON object in UTF-8"
DECODER = "name a decoder, such as a Llama, Mistral or Qwen"
SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def described(path: Path, /, **sections: dict) -> RunSpec:
    tree: dict[str, Any] = {
        "model": {"name_or_path": str(path), "weights": "random"},
        "data": {"train": "x", "max_length": 128},
        "output_dir": "x",
    }
    for name, values in sections.items():
        tree[name] = tree.get(name, {}) | values
    return describe(RunConfig.model_validate(tree), CARD)


def refused(words: str, hint: str, path: Path, /, **sections: dict) -> None:
    with pytest.raises(ConfigError) as caught:
        described(path, **sections)
    assert words in caught.value.message
    assert caught.value.hint.startswith(hint)
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2


def stated(directory: Path, fields: dict[str, Any]) -> Path:
    (directory / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return directory


# What config.json says


@pytest.mark.parametrize(
    ("content", "words", "hint"),
    [
        (b"{model_type: llama}", "config.json: Expecting property name enclosed in double quotes: line 1", JSON),
        (b"", "config.json: Expecting value: line 1", JSON),
        (b"\xff\xfe{}", "config.json: 'utf-8' codec can't decode", JSON),
        (b"[1, 2]", "config.json: a list, not an object", JSON),
        (b"{}", "config.json has no model_type", "config.json must name a model_type that transformers knows"),
        (
            b'{"model_type": "nosuch"}',
            "model_type 'nosuch' is unknown to transformers ",
            "config.json must name a model_type that transformers knows",
        ),
    ],
)
def test_a_configuration_that_cannot_be_read(tmp_path: Path, content: bytes, words: str, hint: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    refused(f"{tmp_path}: its configuration cannot be read ({words}", hint, tmp_path)


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("llama3", {"hidden_size": None}, "config.json lacks hidden_size"),
        ("qwen3", {"vocab_size": None, "num_attention_heads": None}, "lacks vocab_size, num_attention_heads"),
        ("llama3", {"hidden_size": "64"}, "Field 'hidden_size' expected int, got str (value: '64')"),
        ("mistral", {"num_hidden_layers": 0}, "config.json has num_hidden_layers = 0"),
        ("llama3", {"num_hidden_layers": 10**9}, "config.json has num_hidden_layers = 1000000000"),
        ("llama3", {"text_config": {"num_hidden_layers": 10**9}}, "config.json has num_hidden_layers = 1000000000"),
        ("qwen2", {"num_attention_heads": 0}, "config.json has num_attention_heads = 0"),
        ("llama3", {"num_attention_heads": 6}, "hidden size (64) is not a multiple of the number of attention heads"),
        ("mistral", {"num_attention_heads": 6}, "hidden_size 64 is no multiple of num_attention_heads 6"),
        ("qwen3", {"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
    ],
)
def test_sizes_that_are_absent_or_do_not_fit(tmp_path: Path, family: str, changes: dict, words: str) -> None:
    refused(words, OWN, write_family(family, tmp_path, **changes))


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")  # PEFT's, of GPT-2's transposed layers
def test_sizes_under_the_family_s_own_names_and_heads_of_their_own_width_are_whole(tmp_path: Path) -> None:
    # Twelve layers are also the class's default; here they are stated.
    gpt2 = {"model_type": "gpt2", "vocab_size": 64, "n_embd": 32, "n_layer": 12, "n_head": 2, "bos_token_id": 1}
    for quantization in ("nf4", "none"):
        spec = described(
            stated(tmp_path, gpt2), lora={"target_modules": ["c_attn"]}, quantization={"type": quantization}
        )
        assert spec.parameters.trainable == 12 * 16 * (32 + 96)
    text = {name: value for name, value in FAMILIES["gemma3_text"].items() if name != "vocab_size"}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    assert described(stated(tmp_path, {"model_type": "gemma3", "text_config": text, "vision_config": vision}))
    assert described(write_family("qwen3", tmp_path, hidden_size=72, num_attention_heads=5, num_key_value_heads=5))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "bert", **SMALL}, "model_type 'bert' is an encoder"),
        ({"model_type": "t5", "vocab_size": 64, "d_model": 32}, "model_type 't5' is an encoder-decoder"),
        ({"model_type": "vit", **SMALL}, "model_type 'vit' is no language model"),
    ],
)
def test_what_is_no_decoder(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    refused(words, DECODER, stated(tmp_path, fields))


def test_a_decoder_of_a_class_that_is_also_an_encoder_s(tmp_path: Path) -> None:
    fields = {"model_type": "gpt_neox", **SMALL}
    assert described(stated(tmp_path, fields), lora={"target_modules": ["query_key_value"]})  # is_decoder is false here
    fields = {"model_type": "bert", "is_decoder": True, **SMALL}
    assert described(stated(tmp_path, fields), lora={"target_modules": ["query"]})


def test_an_activation_that_transformers_does_not_have(tmp_path: Path) -> None:
    model = write_family("llama3", tmp_path, hidden_act="swish7")
    refused("model_type 'llama' cannot be built: there is no 'swish7'", "correct what its config.json says", model)


@pytest.mark.parametrize(
    ("stored", "quantization", "words"),
    [
        ({"quant_method": "mxfp4"}, {}, "its weights are quantised already (mxfp4)"),
        ({"quant_method": "gptq", "bits": 4}, {"type": "none"}, "its weights are quantised already (gptq)"),
        (
            {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": False},
            {"double_quant": True},
            "(bitsandbytes, nf4 without double_quant)",
        ),
    ],
)
def test_weights_that_are_stored_quantised(tmp_path: Path, stored: dict, quantization: dict, words: str) -> None:
    stored = {"quant_method": "bitsandbytes"} | stored
    model = write_family("llama3", tmp_path, quantization_config=stored)
    refused(words, "name the model it was made from", model, quantization=quantization)


def test_weights_that_are_stored_as_the_run_holds_them(tmp_path: Path) -> None:
    stored = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    model = write_family("llama3", tmp_path, quantization_config=stored | {"bnb_4bit_use_double_quant": True})
    assert described(model).parameters == described(write_family("llama3", tmp_path)).parameters


# What the run asks of it


@pytest.mark.parametrize("family", ["phi3", "phi4"])
def test_the_default_targets_on_fused_layers(tmp_path: Path, family: str) -> None:
    words = "lora.target_modules: k_proj, q_proj, v_proj match no linear layer inside Phi3ForCausalLM"
    hint = "its linear layers are down_proj, gate_up_proj, o_proj, qkv_proj"
    refused(words, hint, write_family(family, tmp_path))


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ({"target_modules": "all-linear", "use_dora": True}, "lora.use_dora=true: PEFT adapts the experts of "),
        ({"target_modules": ["w1", "w2", "w3"], "dropout": 0.1}, "lora.dropout=0.1: PEFT adapts the experts of "),
        ({"target_modules": ["q_proj", "w1"]}, "w1 without also targeting w3"),
        ({"target_modules": ["q_proj", "w4"]}, "lora.target_modules: w4 match no linear layer inside Mixtral"),
    ],
)
def test_what_experts_cannot_be_given(tmp_path: Path, lora: dict[str, Any], words: str) -> None:
    hint = "" if "w4" in words else "name "
    refused(words, hint, write_family("mixtral", tmp_path), lora=lora)


def test_a_model_that_peft_refuses(tmp_path: Path) -> None:
    model = stated(tmp_path, {"model_type": "mamba", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1})
    words = "lora: PEFT cannot adapt MambaForCausalLM: "
    refused(words, "name other layers in lora.target_modules", model, lora={"target_modules": "all-linear"})


def test_a_kernel_that_the_class_has_not(tmp_path: Path) -> None:
    words = "model.attention: sdpa, but GptOssForCausalLM has only eager, flash_attention_2"
    hint = "set model.attention=flash_attention_2 or auto"
    refused(words, hint, write_family("gpt_oss", tmp_path), model={"attention": "sdpa"})


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine may have the kernel")
def test_flash_attention_is_described_without_the_package_and_built_only_with_it(tmp_path: Path) -> None:
    for family in ("llama3", "gemma2"):
        spec = described(write_family(family, tmp_path), model={"attention": "flash_attention_2"})
        assert spec.attention == spec.skeleton().config._attn_implementation == "flash_attention_2"
        assert spec.tensors == described(tmp_path, model={"attention": "eager"}).tensors
        with pytest.raises(ModelError, match="needs a CUDA GPU and the package flash-attn, but the package") as caught:
            build_model(spec)
        assert caught.value.hint.startswith("set model.attention=auto")


# The same from the command line


def test_preflight_says_so_in_one_message(
    tmp_path: Path, config_file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def preflight(model: Path, *overrides: str) -> str:
        command = [
            "finetune",
            "preflight",
            config_file,
            f"model.name_or_path={model}",
            "model.weights=random",
            *overrides,
        ]
        monkeypatch.setattr(sys, "argv", [str(part) for part in command])
        with pytest.raises(SystemExit) as done:
            cli.main()
        captured = capfd.readouterr()
        assert done.value.code == 2
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("hint: ") == 1
        return captured.err

    assert "config.json lacks hidden_size" in preflight(write_family("llama3", tmp_path / "a", hidden_size=None))
    bert = stated(write_family("llama2", tmp_path / "b"), {"model_type": "bert", **SMALL})
    assert "model_type 'bert' is an encoder" in preflight(bert)
    phi3 = write_family("phi3", tmp_path / "c")
    assert "its linear layers are down_proj, gate_up_proj, o_proj, qkv_proj" in preflight(phi3)
    length = FAMILIES["phi3"]["max_position_embeddings"] + 1
    words = f"data.max_length: {length} tokens, but the model has positions for {length - 1}"
    assert words in preflight(phi3, "lora.target_modules=all-linear", f"data.max_length={length}")
