"""Parameters counted before a weight exists: exactly PEFT's own numbers, and those that were published."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import FAMILIES, write_family
from peft import LoraConfig, get_peft_model
from repo import REPO
from transformers import AutoConfig, AutoModelForCausalLM

from finetune.config import RunConfig
from finetune.spec import Device, ParameterCounts, describe

CARD = Device("cuda", "a card", 24 * 2**30, bf16=True, present=False)
TRUTH = REPO.parent / "shared" / "truth" / "models"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
FUSED = {"phi3", "phi4"}
MIXTURES = {"mixtral", "qwen3_moe"}
PUBLISHED = {
    "Llama-2-7B": (16_777_216, 39_976_960),
    "Llama-3.1-8B": (13_631_488, 41_943_040),
    "Qwen2.5-7B-Instruct": (10_092_544, 40_370_176),
}
KINDS = {"LoRA": {}, "DoRA": {"use_dora": True}, "rsLoRA": {"use_rslora": True}}


def attention(family: str) -> list[str]:
    """The names that the family gives its attention layers."""
    return ["qkv_proj", "o_proj"] if family in FUSED else ATTENTION


def custom(family: str) -> list[str]:
    """Some attention and some feed-forward layers, by the names that people write."""
    own = {
        "phi3": ["qkv_proj", "gate_up_proj"],
        "phi4": ["o_proj", "down_proj"],
        "mixtral": ["q_proj", "w1", "w2", "w3"],
        "qwen3_moe": ["o_proj", "gate_proj", "up_proj", "down_proj"],
        "gpt_oss": ["v_proj"],
    }
    return own.get(family, ["v_proj", "up_proj"])


def counted(model: Path, quantization: str = "nf4", **lora) -> ParameterCounts:
    """What we say."""
    tree = {
        "model": {"name_or_path": str(model), "weights": "random"},
        "quantization": {"type": quantization},
        "lora": lora,
        "data": {"train": "x", "max_length": 128},
        "output_dir": "x",
    }
    return describe(RunConfig.model_validate(tree), CARD).parameters


def counted_by_peft(model: Path, target_modules, r: int = 16, **lora) -> ParameterCounts:
    """What PEFT says of transformers' own model, dense; 4-bit weights are the linear layers' but the output's."""
    with torch.device("meta"):
        dense = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
        linear = [layer for layer in dense.modules() if type(layer) is torch.nn.Linear and layer is not dense.lm_head]
        quantized = sum(layer.weight.numel() for layer in linear)
        config = LoraConfig(task_type="CAUSAL_LM", r=r, target_modules=target_modules, **lora)
        trainable, total = get_peft_model(dense, config).get_nb_trainable_parameters()
    return ParameterCounts(total, trainable, quantized)


def dense(counts: ParameterCounts) -> ParameterCounts:
    """The same without quantisation."""
    return ParameterCounts(counts.total, counts.trainable, 0)


@pytest.mark.parametrize("name", sorted(folder.name for folder in TRUTH.glob("*")))
def test_every_measured_model(name: str) -> None:
    found = counted(TRUTH / name)
    assert found == counted_by_peft(TRUTH / name, ATTENTION)
    if name in PUBLISHED:
        assert found.trainable == PUBLISHED[name][0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_all_linear_layers_of_the_published(shared: Path, name: str) -> None:
    found = counted(TRUTH / name, target_modules="all-linear")
    assert found == counted_by_peft(TRUTH / name, "all-linear")
    assert found.trainable == PUBLISHED[name][1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["Llama-3.2-1B-Instruct", "Qwen2.5-0.5B-Instruct"])
def test_every_kind_of_adapter_on_tied_models(shared: Path, name: str, kind: str) -> None:
    for targets in (ATTENTION, "all-linear", ["v_proj", "down_proj"]):
        options = {"target_modules": targets, "r": 8} | KINDS[kind]
        expected = counted_by_peft(TRUTH / name, **options)
        assert counted(TRUTH / name, **options) == expected
    assert counted(TRUTH / name, "none", **options) == dense(expected)


@pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(tmp_path: Path, family: str) -> None:
    model = write_family(family, tmp_path)
    for targets in (attention(family), "all-linear", custom(family)):
        for kind in KINDS:
            if kind == "DoRA" and family in MIXTURES and targets != ATTENTION:
                continue  # refused: test_bad_models.py
            options = {"target_modules": targets, "r": 3} | KINDS[kind]
            expected = counted_by_peft(model, **options)
            assert counted(model, **options) == expected, (targets, kind)
            assert counted(model, "none", **options) == dense(expected), (targets, kind)


def test_an_embedding_that_is_also_the_output_counts_once(tmp_path: Path) -> None:
    tied = counted(write_family("smollm2", tmp_path / "tied"))
    untied = counted(write_family("smollm2", tmp_path / "untied", tie_word_embeddings=False))
    assert untied.total - tied.total == 512 * 96
    assert untied.quantized == tied.quantized  # neither embedding nor output is


def test_experts_of_a_mixture(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """All linear layers of Mixtral are its experts and router too, which stay in 16 bits: by hand, without PEFT."""
    layers, hidden, inner, experts, kv, r = 2, 64, 176, 4, 32, 16
    attention = 2 * (hidden + hidden) + 2 * (hidden + kv)
    # Gate and up projection are one tensor, of twice the rank: one for each half.
    stacked = experts * (2 * (hidden + 2 * inner) + inner + hidden)
    router = hidden + experts
    found = counted(write_family("mixtral", tmp_path), target_modules="all-linear", r=r)
    assert found.trainable == layers * r * (attention + stacked + router)
    assert found.quantized == layers * (2 * hidden * hidden + 2 * hidden * kv)
    assert not any("_pattern keys" in str(warning.message) for warning in recwarn)  # PEFT's, which is mistaken
