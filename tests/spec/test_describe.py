"""The description of a run: counts equal PEFT's and the published ones, every auto is decided, errors say what."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune.config import RunConfig
from finetune.errors import ConfigError, ModelError
from finetune.spec import Device, describe

CARD = Device("cuda", "a card", 24 * 2**30, bf16=True, present=False)
OLD_CARD = Device("cuda", "an old card", 16 * 2**30, bf16=False, present=False)
CPU = Device("cpu", "a processor", 16 * 2**30, bf16=False)


def config(path: Path | str, /, **sections: dict) -> RunConfig:
    tree = {
        "model": {"name_or_path": str(path)},
        "data": {"train": "rows.jsonl", "max_length": 128},
        "output_dir": "x",
    }
    for name, values in sections.items():
        tree[name] = tree.get(name, {}) | values
    return RunConfig.model_validate(tree)


def test_four_bits_and_double_quantisation_take_the_bytes_they_should(tiny_model: Path) -> None:
    def stored(**quantization) -> int:
        spec = describe(config(tiny_model, quantization=quantization), CPU)
        return sum(
            t.bytes for t in spec.tensors if ".q_proj." in t.name and "lora" not in t.name and "code" not in t.name
        )

    weights = 2 * 64 * 64
    assert stored(type="none") == weights * 4
    assert stored(double_quant=False) == weights // 2 + weights // 64 * 4
    # 8-bit block constants, a float32 constant for each 256 of those (here one a layer), and an offset.
    assert stored(double_quant=True) == weights // 2 + weights // 64 + 2 * (4 + 4)


@pytest.mark.parametrize(
    ("device", "compute", "autocast"),
    [(CARD, torch.bfloat16, torch.bfloat16), (OLD_CARD, torch.float16, torch.float16), (CPU, torch.float32, None)],
)
def test_auto_takes_what_the_device_computes_natively(tiny_model: Path, device: Device, compute, autocast) -> None:
    spec = describe(config(tiny_model), device)
    assert (spec.compute_dtype, spec.dtype, spec.autocast) == (compute, compute, autocast)
    assert spec.bitsandbytes().bnb_4bit_compute_dtype == compute
    fields = spec.trainer_fields()
    assert (fields["bf16"], fields["fp16"]) == (autocast is torch.bfloat16, autocast is torch.float16)


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1), ("linear", 4), ("sqrt", 2)])
def test_learning_rate_scales_with_the_effective_batch(tiny_model: Path, scaling: str, factor: float) -> None:
    training = {
        "lr_scaling": scaling,
        "reference_batch_size": 8,
        "micro_batch_size": 4,
        "gradient_accumulation_steps": 8,
    }
    spec = describe(config(tiny_model, training=training | {"learning_rate": 1e-4}), CPU)
    assert spec.learning_rate == pytest.approx(factor * 1e-4)
    assert spec.trainer_fields()["learning_rate"] == spec.learning_rate


def test_adapters_are_float32_on_a_16_bit_base(tiny_model: Path) -> None:
    spec = describe(config(tiny_model), CARD)
    assert {t.dtype for t in spec.tensors if t.trainable} == {torch.float32}
    assert {t.dtype for t in spec.tensors if t.name.endswith("norm.weight")} == {torch.bfloat16}
    cast = describe(config(tiny_model, model={"fp32_unquantized": True}), CARD)
    assert {t.dtype for t in cast.tensors if t.name.endswith("norm.weight")} == {torch.float32}


def test_describing_leaves_nothing_of_the_meta_device_behind(tiny_model: Path) -> None:
    from bitsandbytes.functional import name2qmap

    describe(config(tiny_model), CPU)
    assert "dynamic" not in name2qmap or not name2qmap["dynamic"].is_meta


def test_a_sequence_longer_than_the_model_s_positions(tiny_model: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"data.max_length: 1024 tokens, but the model has positions for 512"
    ) as caught:
        describe(config(tiny_model, data={"train": "x", "max_length": 1024}), CPU)
    assert caught.value.hint == "set data.max_length=512 or less"


@pytest.mark.parametrize(
    ("targets", "named"), [(["query"], "query"), (["q_proj", "nonsense"], "nonsense"), (["lm_head"], "lm_head")]
)
def test_target_modules_that_match_nothing(tiny_model: Path, targets: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=f"lora.target_modules: {named} match no linear layer") as caught:
        describe(config(tiny_model, lora={"target_modules": targets}), CPU)
    assert "q_proj" in caught.value.hint


def test_auto_attention_takes_what_the_model_has(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    Gemma2Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16,
    ).save_pretrained(tmp_path)  # fmt: skip
    assert describe(config(tiny_model), CPU).attention == "sdpa"
    assert describe(config(tmp_path, model={"weights": "random"}), CPU).attention == (
        "sdpa" if Gemma2ForCausalLM._supports_sdpa else "eager"
    )


def test_a_hub_model_whose_configuration_ships_needs_no_network() -> None:
    spec = describe(config("allenai/OLMo-2-1124-7B-Instruct"), CARD)
    assert spec.parameters.trainable == 16_777_216
    with pytest.raises(ModelError, match="its configuration cannot be read") as caught:
        describe(config("nobody/no-such-model"), CARD)
    assert "check the id and the network" in caught.value.hint
