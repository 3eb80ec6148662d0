"""The sum by hand: within 3 % of the trace over a grid of models and settings, and checkable with a calculator.

Left out, because products of a few letters do not say them (docs/preflight.md names them too): autocast over weights in
float32, offloading without checkpointing, mixtures of experts, Gemma 2's capped scores, and fused projections without
checkpointing.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
from repo import REPO

from finetune.config import RunConfig, load_config
from finetune.preflight import find_card, predict
from finetune.preflight.closed_form import INSTANTS, STANDING, estimate, explain
from finetune.preflight.depth import price
from finetune.preflight.letters import LEGEND
from finetune.spec import RunSpec, describe

WITHIN = 0.03
PLAN = REPO / "configs" / "qlora_r16.yaml"
LLAMA_2_7B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096,
}  # fmt: skip
MODELS = {
    "Llama-2-7B": None,
    "Llama-3.1-8B": "meta-llama/Llama-3.1-8B-Instruct",
    "Qwen2.5-7B-Instruct": "Qwen/Qwen2.5-7B-Instruct",
    "Qwen2.5-1.5B-Instruct": None,
    "Mistral-7B-v0.1": "mistralai/Mistral-7B-Instruct-v0.3",
    "OLMo-2-1124-7B": "allenai/OLMo-2-1124-7B-Instruct",
    "SmolLM2-360M": None,
}
"""Configurations of the shared folder, and where it is absent the shipped one of the same shape, if there is one."""
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
AXES: dict[str, list[Any]] = {
    "quantization": ["nf4", "none"], "tokens": [512, 2048, 4096], "rows": [1, 4], "checkpointing": [True, False],
    "loss": ["fused_linear", "full_logits"], "attention": ["sdpa", "eager"], "autocast": [True, False],
    "card": ["T4", "RTX 4090"], "targets": [ATTENTION, ATTENTION, "all-linear"], "dropout": [0.0, 0.0, 0.05],
    "packing": [True, False], "optimizer": ["adamw_torch", "paged_adamw_8bit"], "accumulation": [1, 4],
    "offloading": [False, False, False, True], "layers": [6, 8],
}  # fmt: skip
USUAL: dict[str, Any] = {name: values[0] for name, values in AXES.items()} | {"card": "RTX 4090", "tokens": 2048}


def sampled(count: int) -> list[dict[str, Any]]:
    """Settings drawn from all axes, each value of each axis about as often, models in turn."""
    chance = random.Random(7)
    columns = {name: list(itertools.islice(itertools.cycle(values), count)) for name, values in AXES.items()}
    for values in columns.values():
        chance.shuffle(values)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for row, model in zip(rows, itertools.cycle(MODELS)):
        row |= {"model": model, "offloading": row["offloading"] and row["checkpointing"]}
    return rows


def label(setting: dict[str, Any]) -> str:
    """The settings of a case, as a test's name."""
    return "-".join(str("qkvo" if value == ATTENTION else value) for value in setting.values())


def model_fields(name: str) -> dict[str, Any]:
    """A model's config.json; the test is skipped where neither the shared folder nor the package has it."""
    shared = REPO.parent / "shared" / "truth" / "models" / name / "config.json"
    shipped = REPO / "finetune" / "spec" / "model_configs" / str(MODELS[name]) / "config.json"
    for path in (shared, shipped):
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    if name == "Llama-2-7B":
        return LLAMA_2_7B
    pytest.skip(f"the configuration of {name} in the shared folder beside the repository is absent")


def described(folder: Path, fields: dict[str, Any], setting: dict[str, Any]) -> RunSpec:
    """The description of a run, its model cut to the setting's layers where it has any."""
    if setting.get("layers"):
        fields = {name: value for name, value in fields.items() if name not in ("layer_types", "max_window_layers")}
        fields["num_hidden_layers"] = setting["layers"]
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    half = "float16" if setting["card"] == "T4" else "bfloat16"
    sections = {
        "model": {"name_or_path": str(folder), "dtype": half, "weights": "random", "attention": setting["attention"]},
        "quantization": {"type": setting["quantization"], "compute_dtype": half},
        "lora": {"dropout": setting["dropout"], "target_modules": setting["targets"]},
        "data": {"train": "x", "max_length": setting["tokens"], "packing": setting["packing"]},
        "training": {
            "micro_batch_size": setting["rows"],
            "gradient_accumulation_steps": setting["accumulation"],
            "autocast": half if setting["autocast"] else "none",
            "gradient_checkpointing": setting["checkpointing"],
            "activation_offloading": setting["offloading"],
            "loss_kernel": setting["loss"],
            "optimizer": setting["optimizer"],
        },
        "output_dir": "x",
    }
    return describe(RunConfig.model_validate(sections), find_card(setting["card"]))


@pytest.mark.parametrize("setting", sampled(42), ids=label)
def test_the_sum_is_within_three_percent_of_the_trace(setting: dict[str, Any], tmp_path: Path) -> None:
    spec = described(tmp_path, model_fields(setting["model"]), setting)
    assert estimate(spec).allocated == pytest.approx(predict(spec).allocated, rel=WITHIN)


@pytest.mark.parametrize("setting", sampled(14), ids=label)
@pytest.mark.parametrize("recomputed", [1, 4])
def test_the_sum_where_some_layers_are_recomputed(setting: dict[str, Any], recomputed: int, tmp_path: Path) -> None:
    setting = setting | {"checkpointing": recomputed, "offloading": False}
    spec = described(tmp_path, model_fields(setting["model"]), setting)
    assert estimate(spec).allocated == pytest.approx(predict(spec).allocated, rel=WITHIN)


@pytest.mark.parametrize(("rows", "packing"), [(1, False), (4, False), (2, True)])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_flash_attention_2_keeps_no_mask(rows: int, packing: bool, checkpointing: bool, tmp_path: Path) -> None:
    setting = USUAL | {
        "attention": "flash_attention_2",
        "rows": rows,
        "packing": packing,
        "checkpointing": checkpointing,
    }
    spec = described(tmp_path, model_fields("Llama-3.1-8B"), setting)
    assert not any("mask" in line.cause for line in estimate(spec).lines)
    assert estimate(spec).allocated == pytest.approx(predict(spec).allocated, rel=WITHIN)


def test_the_grid_has_every_value_of_every_axis_and_every_worst_instant(tmp_path: Path) -> None:
    settings = sampled(42)
    for name, values in AXES.items():
        assert {str(setting[name]) for setting in settings} == {str(value) for value in values}
    found = [estimate(described(tmp_path, LLAMA_2_7B, setting)) for setting in settings]
    assert {each.phase for each in found} == set(INSTANTS) - {INSTANTS[-1]}


@pytest.mark.parametrize("card", ["24GiB", "T4"])
@pytest.mark.parametrize("plan", sorted((REPO / "configs").glob("qlora_r16*.yaml")), ids=lambda path: path.stem)
def test_shipped_plans_at_full_depth(plan: Path, card: str) -> None:
    spec = describe(load_config(plan), find_card(card))
    assert estimate(spec).allocated == pytest.approx(predict(spec).allocated, rel=WITHIN)


def test_the_optimiser_can_be_the_worst_instant(tmp_path: Path) -> None:
    setting = USUAL | {"tokens": 128, "rows": 1, "layers": 32, "targets": "all-linear", "accumulation": 1}
    spec = described(tmp_path, LLAMA_2_7B, setting)
    wide = spec.config.lora.model_copy(update={"r": 64})
    spec = describe(spec.config.model_copy(update={"lora": wide}), spec.device)
    found, traced = estimate(spec), predict(spec)
    assert found.phase == traced.phase == "optimiser step"
    assert found.allocated == pytest.approx(traced.allocated, rel=WITHIN)


@pytest.mark.parametrize("tokens", [4096, 16384])
def test_feed_forward_parts_in_chunks(tmp_path: Path, tokens: int) -> None:
    """With them the worst instant of a long row is attention, and that of a short one stays the feed-forward part."""
    setting = USUAL | {"tokens": tokens, "rows": 1, "targets": "all-linear", "offloading": True}
    spec = described(tmp_path, model_fields("Llama-3.1-8B"), setting)
    training = spec.config.training.model_copy(update={"feed_forward_chunk": 2048})
    chunked = describe(spec.config.model_copy(update={"training": training}), spec.device)
    found, traced = estimate(chunked), predict(chunked)
    assert found.allocated == pytest.approx(traced.allocated, rel=WITHIN)
    assert traced.allocated < predict(spec).allocated


def test_a_small_model_on_the_cpu(config_file: Path) -> None:
    """What the sum leaves out, rotary tables and products of rank r, is little of a model whose rows are r wide."""
    spec = describe(load_config(config_file, ["lora.r=1", "training.micro_batch_size=8"]))
    found, traced = estimate(spec), predict(spec)
    assert found.phase == "feed-forward, backward"
    assert found.allocated == pytest.approx(traced.allocated, rel=WITHIN)


@pytest.fixture
def llama_plan(tmp_path: Path) -> RunSpec:
    """Llama-2-7B under the shipped plan for a 24-GB card: the worked example of docs/preflight.md."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_2_7B), encoding="utf-8")
    overrides = [f"model.name_or_path={tmp_path}", "model.weights=random"]
    return describe(load_config(PLAN, overrides), find_card("24GiB"))


def test_every_line_can_be_multiplied_out(llama_plan: RunSpec) -> None:
    found = estimate(llama_plan)
    for line in found.lines:
        factors = [float(number.replace(",", "")) for number in line.numbers.split(" × ")]
        assert line.bytes == round(math.prod(factors))
        assert [found.letters.get(word, word) for word in line.formula.split()] == [
            pytest.approx(number) if word in found.letters else word
            for word, number in zip(line.formula.split(), factors, strict=True)
        ]
    sums = {name: sum(line.bytes for line in found.lines if line.instant in (STANDING, name)) for name in INSTANTS}
    assert found.allocated == max(sums.values()) == sums[found.phase]


def test_the_explanation_names_its_letters_marks_the_peak_and_stands_beside_the_trace(llama_plan: RunSpec) -> None:
    found = estimate(llama_plan)
    traced = predict(llama_plan).allocated
    text = explain(llama_plan, traced=traced)
    assert [line.removesuffix(" <- the peak") for line in text.splitlines() if line.endswith("<- the peak")] == [
        found.phase
    ]
    for line in found.lines:
        assert re.search(rf"{re.escape(line.cause)} +{line.formula} +{line.numbers} +{line.bytes / 2**20:,.1f}\n", text)
    legend = dict(re.findall(r"^  (\w) +([\d,]+)  \w", text, re.MULTILINE))
    words = {word for line in found.lines for word in line.formula.split()}
    assert legend == {letter: f"{int(found.letters[letter]):,}" for letter in LEGEND if letter in words}
    difference = f"{found.allocated / traced - 1:+.1%}"
    assert text.endswith(f"by hand {found.allocated / 2**20:,.1f} MiB, traced {traced / 2**20:,.1f} MiB: {difference}")


def test_the_worked_example_of_the_documentation_is_what_the_sum_gives(llama_plan: RunSpec) -> None:
    found = estimate(llama_plan)
    page = (REPO / "docs" / "preflight.md").read_text(encoding="utf-8").split("## The closed form")[1].split("\n## ")[0]
    rows = [tuple(cell.strip(" `") for cell in row.split("|")[1:-1]) for row in page.splitlines() if "MiB |" in row]
    expected = [
        (line.cause, line.formula, line.numbers, f"{line.bytes / 2**20:,.1f} MiB")
        for line in found.lines
        if line.instant in (STANDING, found.phase)
    ]
    assert rows == [*expected, ("sum", "", "", f"{found.allocated / 2**20:,.1f} MiB")]
    others = {name: f"{found.at(name) / 2**20:,.0f} MiB" for name in INSTANTS if name != found.phase}
    assert all(f"{name} {size}" in page for name, size in others.items())
    traced = predict(llama_plan).allocated
    assert f"The trace says {traced / 2**20:,.1f} MiB: {found.allocated / traced - 1:+.1%}." in " ".join(page.split())


@pytest.mark.parametrize("shards", [2, 3, 8])
def test_a_base_that_is_shared_out(shards: int) -> None:
    """A part of every layer stays, and three layers are there whole; nothing else is other than in one process."""
    card = find_card("24GiB")
    whole = predict(_llama(1, card))
    spec = _llama(shards, card)
    found, layers = predict(spec), spec.layers
    sizes = [tensor.elements // 2 for tensor in spec.tensors if tensor.quantized]
    assert found.breakdown["gathered layers"] == pytest.approx(3 * sum(sizes) / layers, rel=1e-3)
    kept = whole.breakdown["weights"] - found.breakdown["weights"]
    assert kept == pytest.approx((1 - 1 / shards) * sum(sizes), rel=1e-3)
    others = {cause: size for cause, size in whole.breakdown.items() if cause != "weights"}
    assert {**found.breakdown, **others, "weights": 0, "gathered layers": 0} == {
        **found.breakdown, "weights": 0, "gathered layers": 0,
    }  # fmt: skip
    assert estimate(spec).allocated == pytest.approx(found.allocated, rel=0.03)
    assert price(spec).allocated == pytest.approx(found.allocated, rel=1e-4)


def _llama(shards: int, card: Any) -> RunSpec:
    config = load_config(REPO / "configs" / "qlora_r16_llama-3.1-8b.yaml", [f"hardware.shards={shards}"])
    return describe(config, card)
