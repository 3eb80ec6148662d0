"""The verdict before a run: cards by name, the closed form against measured runs, advice that fits."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

import pytest
from repo import REPO

from finetune.config import RunConfig, load_config
from finetune.errors import ConfigError, DoesNotFit
from finetune.preflight import find_card, predict, preflight
from finetune.spec import Device, describe

PLAN = REPO / "configs" / "qlora_r16.yaml"


@pytest.mark.parametrize(
    ("text", "name"), [("RTX 4090", "RTX 4090"), ("t4", "T4"), ("3090", "RTX 3090"), ("a100-80gb", "A100-80GB")]
)
def test_cards_are_found_by_name(text: str, name: str) -> None:
    assert find_card(text).name == name


def test_cards_are_found_by_memory() -> None:
    assert find_card("24GiB").memory_bytes == 24 * 2**30
    assert find_card("T4").bf16 is False
    assert find_card("RTX 3090").bf16 is True


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("24", "'24' is not a memory size"),
        ("RTX 4095", "did you mean RTX 4090?"),
        ("Voodoo", "'Voodoo' is not a known card"),
    ],
)
def test_an_unknown_card(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")) as caught:
        find_card(text)
    assert "24GiB" in caught.value.hint


def test_breakdown_sums_to_the_peak_and_each_cause_answers_to_its_key() -> None:
    def causes(*overrides: str) -> dict[str, int]:
        prediction = predict(describe(load_config(PLAN, overrides), find_card("24GiB")))
        assert sum(prediction.breakdown.values()) == prediction.allocated
        return prediction.breakdown

    plan = causes()
    assert causes("training.micro_batch_size=8")["checkpoints"] == 2 * plan["checkpoints"]
    assert causes("data.max_length=1024")["checkpoints"] == plan["checkpoints"] // 2
    assert causes("training.optimizer=adamw_torch")["optimiser"] == 8 * 16_777_216
    assert causes("lora.r=32")["adapters"] == 2 * plan["adapters"]
    assert "dequantised weight" not in causes("quantization.type=none")


def test_advice_fits_when_followed() -> None:
    verdict = preflight(describe(load_config(PLAN), find_card("8GiB")))
    assert not verdict.fits
    change = verdict.advice[0].split("`")[1]
    changes = [change]
    if change.startswith("training.micro_batch_size"):
        changes.append("training.gradient_accumulation_steps=8")
    assert preflight(describe(load_config(PLAN, changes), find_card("8GiB"))).fits


def test_a_run_that_does_not_fit_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {
            "model": {"name_or_path": str(tiny_model)},
            "data": {"train": "x", "max_length": 512},
            "training": {"optimizer": "adamw_torch", "micro_batch_size": 64},
            "output_dir": str(tmp_path / "run"),
        }
    )
    small = Device("cpu", "a small machine", 2**20, bf16=False)
    with pytest.raises(DoesNotFit, match=r"this run needs .* GiB, but a small machine has 0.0 GiB") as caught:
        preflight(describe(config, small)).require_fit()
    assert caught.value.exit_code == 3
    assert caught.value.hint


def test_paging_needs_a_card(tiny_model: Path) -> None:
    config = RunConfig.model_validate(
        {"model": {"name_or_path": str(tiny_model)}, "data": {"train": "x", "max_length": 128}, "output_dir": "x"}
    )
    with pytest.raises(DoesNotFit, match=r"training\.optimizer=paged_adamw_8bit pages between card and host") as caught:
        preflight(describe(config, Device("cpu", "CPU", 2**34, bf16=False))).require_fit()
    assert caught.value.hint == "set training.optimizer=adamw_torch"


def test_closed_form_against_measured_runs(shared: Path) -> None:
    """Runs with full logits and a kernel that keeps no scores: median error below 2 %, worst below 10 %."""
    errors = [abs(error) for error in _errors(shared / "truth")]
    assert len(errors) > 20
    assert statistics.median(errors) < 0.02
    assert max(errors) < 0.10


def _errors(truth: Path) -> list[float]:
    with (truth / "memory.csv").open(encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["loss"] == "full_logits_fp32" and r["attention"] != "eager"]
    return [_predicted(truth, row) / float(row["allocated_bytes"]) - 1 for row in rows]


def _predicted(truth: Path, row: dict[str, str]) -> int:
    config = RunConfig.model_validate(
        {
            "model": {
                "name_or_path": str(truth / "models" / row["model"]),
                "dtype": row["base_dtype"],
                "fp32_unquantized": row["fp32_unquantized"] == "True",
                "weights": "random",
            },
            "quantization": {
                "type": row["quantization"],
                "double_quant": row["double_quant"] == "True",
                "compute_dtype": row["base_dtype"],
            },
            "lora": {"r": int(row["lora_r"]), "target_modules": row["targets"].split("+")},
            "data": {"train": "x", "max_length": int(row["seq_len"])},
            "training": {
                "micro_batch_size": int(row["micro_batch_size"]),
                "gradient_checkpointing": row["gradient_checkpointing"] == "True",
                "optimizer": row["optimizer"],
                "autocast": row["autocast"],
                "loss_kernel": "full_logits",
            },
            "output_dir": "x",
        }
    )
    spec = describe(config, Device("cuda", row["gpu"], 2**35, bf16=True, present=False))
    return predict(spec, workspace_bytes=2 * 8_519_680).allocated
