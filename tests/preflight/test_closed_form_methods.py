"""The sum by hand for dpo, rloo and grpo: within 3 % of the trace over a grid of models and settings."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from test_closed_form import ATTENTION, LLAMA_2_7B, MODELS, WITHIN, model_fields

from finetune.config import RunConfig
from finetune.preflight import find_card, predict
from finetune.preflight.closed_form import DECODING, PREFILL, REFERENCE, estimate, explain
from finetune.spec import RunSpec, describe

DRAWS = 30
AXES: dict[str, list[Any]] = {
    "method": ["dpo", "rloo", "grpo", "rloo", "grpo"], "quantization": ["nf4", "none"], "tokens": [512, 1024, 2048],
    "completion": [64, 256], "rows": [1, 2, 4], "accumulation": [1, 4, 8], "checkpointing": [True, False],
    "attention": ["sdpa", "sdpa", "eager"], "card": ["T4", "RTX 4090"], "targets": [ATTENTION, ATTENTION, "all-linear"],
    "dropout": [0.0, 0.0, 0.05], "top_p": [1.0, 0.9], "beta": [None, None, 0.5],
}  # fmt: skip


def sampled(count: int) -> list[dict[str, Any]]:
    """Settings drawn from all axes, each value of each axis about as often, models in turn."""
    chance = random.Random(11)
    columns = {name: list(itertools.islice(itertools.cycle(values), count)) for name, values in AXES.items()}
    for values in columns.values():
        chance.shuffle(values)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [row | {"model": model} for row, model in zip(rows, itertools.cycle(MODELS))]


def described(folder: Path, fields: dict[str, Any], setting: dict[str, Any]) -> RunSpec:
    """The description of a run of six layers."""
    fields = {name: value for name, value in fields.items() if name not in ("layer_types", "max_window_layers")}
    (folder / "config.json").write_text(json.dumps(fields | {"num_hidden_layers": 6}), encoding="utf-8")
    half = "float16" if setting["card"] == "T4" else "bfloat16"
    online = setting["method"] != "dpo"
    alone = online and setting["rows"] * setting["accumulation"] == 1  # no group of one
    sections: dict[str, Any] = {
        "model": {"name_or_path": str(folder), "dtype": half, "weights": "random", "attention": setting["attention"]},
        "quantization": {"type": setting["quantization"], "compute_dtype": half},
        "lora": {"dropout": setting["dropout"], "target_modules": setting["targets"]},
        "data": {"train": "x", "max_length": setting["tokens"]},
        "training": {
            "method": setting["method"],
            "beta": setting["beta"],
            "micro_batch_size": 2 if alone else setting["rows"],
            "gradient_accumulation_steps": setting["accumulation"],
            "gradient_checkpointing": setting["checkpointing"],
        },
        "output_dir": "x",
    }
    if online:
        sections["rollout"] = {
            "num_generations": 2, "max_completion_length": setting["completion"], "top_p": setting["top_p"],
        }  # fmt: skip
        sections["rewards"] = [{"type": "length", "max": 9}]
    return describe(RunConfig.model_validate(sections), find_card(setting["card"]))


@pytest.mark.parametrize("setting", sampled(DRAWS), ids=lambda setting: "-".join(map(str, setting.values())))
def test_the_sum_is_within_three_percent_of_the_trace(setting: dict[str, Any], tmp_path: Path) -> None:
    spec = described(tmp_path, model_fields(setting["model"]), setting)
    assert estimate(spec).allocated == pytest.approx(predict(spec).allocated, rel=WITHIN)


USUAL = {name: values[0] for name, values in AXES.items()} | {"card": "RTX 4090", "tokens": 2048, "rows": 4}


@pytest.mark.parametrize(
    ("changes", "phase"),
    [
        ({"checkpointing": False, "tokens": 512}, REFERENCE),
        ({"method": "grpo", "accumulation": 4}, PREFILL),
        ({"method": "rloo", "accumulation": 8, "completion": 500, "tokens": 512}, DECODING),
    ],
)
def test_each_instant_can_be_the_worst(changes: dict[str, Any], phase: str, tmp_path: Path) -> None:
    spec = described(tmp_path, LLAMA_2_7B, USUAL | changes)
    found, traced = estimate(spec), predict(spec)
    assert found.phase == traced.phase == phase
    assert found.allocated == pytest.approx(traced.allocated, rel=WITHIN)
    assert f"\n{phase} <- the peak\n" in explain(spec)


def test_the_cache_is_a_product_that_a_person_can_check(tmp_path: Path) -> None:
    spec = described(tmp_path, LLAMA_2_7B, USUAL | {"method": "grpo", "accumulation": 4})
    line = next(line for line in estimate(spec).lines if line.cause == "keys and values of all completions")
    assert (line.formula, line.numbers) == ("2 g B s K L", "2 × 2 × 16 × 2,048 × 4,096 × 6")


def test_a_run_without_preferences_or_completions_has_neither(tmp_path: Path) -> None:
    found = estimate(described(tmp_path, LLAMA_2_7B, USUAL | {"method": "dpo"}))
    assert (PREFILL in found.instants, DECODING in found.instants, REFERENCE in found.instants) == (False, False, True)
