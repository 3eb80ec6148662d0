"""A price from two shallow traces against the full trace, over settings and families whose layers differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from families import write_family
from repo import REPO

from finetune.config import RunConfig, load_config
from finetune.preflight import find_card, predict
from finetune.preflight.depth import price
from finetune.spec import RunSpec, describe

PLAN = REPO / "configs" / "qlora_r16_qwen2.5-7b.yaml"

SETTINGS = [
    [],
    ["training.loss_kernel=full_logits", "training.autocast=none"],
    ["training.gradient_checkpointing=false", "data.max_length=512"],
    ["training.gradient_checkpointing=9", "data.max_length=512"],
    ["training.gradient_checkpointing=27", "training.loss_kernel=full_logits"],
    ["training.gradient_checkpointing=1", "training.autocast=none", "data.packing=false"],
    ["training.activation_offloading=true"],
    ["model.attention=eager", "training.optimizer=adamw_torch"],
    ["quantization.type=none", "training.micro_batch_size=1"],
]


@pytest.mark.parametrize("overrides", SETTINGS, ids=lambda overrides: overrides[0] if overrides else "plan")
def test_two_depths_say_what_all_layers_say(overrides: list[str]) -> None:
    """Allocated bytes but for what allocators round; the process, whose cache is no straight line, to 3 %."""
    spec = describe(load_config(PLAN, overrides), find_card("RTX 4090"))
    whole, priced = predict(spec), price(spec)
    assert priced.allocated == pytest.approx(whole.allocated, rel=1e-3)
    assert priced.process == pytest.approx(whole.process, rel=0.03)


@pytest.mark.parametrize("method", ["dpo", "rloo", "grpo"])
@pytest.mark.parametrize("overrides", [[], ["training.gradient_checkpointing=false", "data.max_length=512"]])
def test_two_depths_say_it_of_every_method(method: str, overrides: list[str]) -> None:
    """Also of the cache, which grows with depth, and of what the policy keeps while the reference reads."""
    rewards = [] if method == "dpo" else ["rewards=[{type: length, max: 9}]"]
    own = [f"training.method={method}", "data.packing=false", *rewards, *overrides]
    spec = describe(load_config(PLAN, own), find_card("RTX 4090"))
    whole, priced = predict(spec), price(spec)
    assert priced.allocated == pytest.approx(whole.allocated, rel=1e-3)
    assert priced.process == pytest.approx(whole.process, rel=0.03)


def _family(name: str, folder: Path, layers: int, **changes: object) -> RunSpec:
    config = {
        "model": {"name_or_path": str(write_family(name, folder, num_hidden_layers=layers, **changes))},
        "lora": {"target_modules": "all-linear"},
        "data": {"train": "x", "max_length": 64},
        "output_dir": "x",
    }
    config["model"]["weights"] = "random"
    return describe(RunConfig.model_validate(config), find_card("24GiB"))


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "mixtral", "qwen3"])
def test_layers_of_several_kinds_are_repeated_as_they_come(name: str, tmp_path: Path) -> None:
    spec = _family(name, tmp_path, 24, layer_types=None)
    assert price(spec).allocated == pytest.approx(predict(spec).allocated, rel=2e-3)


def test_layers_that_do_not_repeat_are_traced_whole(tmp_path: Path) -> None:
    """A dense layer among layers of experts, which no line through two depths would count right."""
    spec = _family("qwen3_moe", tmp_path, 9, mlp_only_layers=[3])
    assert price(spec).allocated == predict(spec).allocated


@pytest.mark.parametrize("recomputed", [5, 18])
def test_layers_of_several_kinds_of_which_some_are_recomputed(recomputed: int, tmp_path: Path) -> None:
    spec = _family("gemma3_text", tmp_path, 24, layer_types=None)
    training = spec.config.training.model_copy(update={"gradient_checkpointing": recomputed})
    spec = describe(spec.config.model_copy(update={"training": training}), spec.device)
    assert price(spec).allocated == pytest.approx(predict(spec).allocated, rel=5e-3)
