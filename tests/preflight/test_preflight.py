"""The verdict before a run: cards by name, the closed form against measured runs, advice that fits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from repo import REPO

from finetune.config import RunConfig, load_config
from finetune.errors import ConfigError, DoesNotFit
from finetune.preflight import find_card, predict, preflight
from finetune.preflight.prediction import ERRORS
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
        assert prediction.allocated == max(prediction.peaks.values()) == prediction.peaks[prediction.phase]
        assert prediction.allocated <= prediction.reserved < prediction.process
        return prediction.breakdown

    plan = causes()
    assert causes("training.micro_batch_size=8")["checkpoints"] == 2 * plan["checkpoints"]
    assert causes("data.max_length=1024")["checkpoints"] == plan["checkpoints"] // 2
    assert causes("training.optimizer=adamw_torch")["optimiser"] == pytest.approx(8 * 16_777_216, rel=1e-3)
    assert causes("lora.r=32")["adapters"] == 2 * plan["adapters"]


@pytest.mark.parametrize(
    ("card", "overrides", "keys"),
    [
        ("8GiB", [], {"training.micro_batch_size"}),
        ("8GiB", ["training.loss_kernel=full_logits", "data.max_length=512"], {"training.loss_kernel"}),
        ("6GiB", ["training.loss_kernel=full_logits"], {"training.loss_kernel", "training.micro_batch_size"}),
    ],
)
def test_every_change_advised_fits_when_it_is_made(card: str, overrides: list[str], keys: set[str]) -> None:
    verdict = preflight(describe(load_config(PLAN, overrides), find_card(card)))
    assert not verdict.fits
    assert verdict.problems[0].startswith("this run needs ")
    assert verdict.changes
    assert keys <= set(verdict.changes[0].changes)
    for change, text in zip(verdict.changes, verdict.advice, strict=True):
        written = text.split("`")[1].split()
        followed = preflight(describe(load_config(PLAN, [*overrides, *written]), find_card(card)))
        assert followed.fits, text
        assert followed.prediction.process == pytest.approx(change.process, rel=0.03)
        effective = followed.spec.config.training.effective_batch_size
        assert effective == verdict.spec.config.training.effective_batch_size


def test_where_nothing_helps_it_says_so() -> None:
    verdict = preflight(describe(load_config(PLAN), find_card("2GiB")))
    assert verdict.changes == []
    assert verdict.advice == ["no change makes it fit: take a smaller model or a larger card"]


def test_several_cards_may_hold_what_one_does_not() -> None:
    large = ["model.name_or_path=meta-llama/Llama-3.1-70B-Instruct"]
    spec = describe(load_config(PLAN, large), find_card("RTX 4090"))
    first, _, changes = preflight(spec).advice[0].partition("`")
    assert first == "no change makes it fit: take a smaller model or a larger card, or 4 of these: "
    written, said = changes.split("`")
    assert "hardware.shards=4" in written and "training.micro_batch_size=1" in written
    of_four = describe(load_config(PLAN, [*large, *written.split()]), find_card("RTX 4090"))
    assert float(said.split()[1]) == pytest.approx(predict(of_four).process / 2**30, rel=0.03)
    assert said.startswith(" takes ") and said.endswith(" GiB on each")
    assert of_four.config.training.effective_batch_size == spec.config.training.effective_batch_size
    assert not [text for text in preflight(of_four).problems if "this run needs" in text]
    dora = describe(load_config(PLAN, [*large, "lora.use_dora=true"]), find_card("RTX 4090"))
    assert preflight(dora).advice[0] == "no change makes it fit: take a smaller model or a larger card"


def test_the_error_of_the_prediction_is_kept_free() -> None:
    spec = describe(load_config(PLAN), find_card("24GiB"))
    prediction = predict(spec)
    tight = dataclasses.replace(spec, device=dataclasses.replace(spec.device, memory_bytes=prediction.process))
    verdict = preflight(tight)
    assert verdict.needed >= prediction.process
    assert verdict.needed >= 1.03 * prediction.allocated
    assert verdict.fits == (verdict.needed <= prediction.process)


def test_examples_tell_the_number_of_updates_and_the_time() -> None:
    spec = describe(load_config(PLAN, ["training.epochs=2.0"]), find_card("RTX 4090"))
    effective = spec.config.training.effective_batch_size
    verdict = preflight(spec, examples=10 * effective + 1)
    assert verdict.duration.updates == 22, "a last partial batch makes an update too"
    assert "for 22 updates" in verdict.duration.words()
    assert preflight(spec).duration.updates is None


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


def test_the_errors_that_are_stated_are_those_that_were_seen() -> None:
    """Rounded up to the next percent: no run is further off than is said, and no more is said than was seen."""
    results = json.loads((REPO / "benchmarks" / "results" / "preflight_accuracy.json").read_text(encoding="utf-8"))
    for figure, stated in ERRORS.items():
        runs = [run for run in results["runs"] if run["loss"] == "full_logits" and figure in run["errors"]]
        worst = max(abs(run["errors"][figure]) for run in runs)
        assert stated - 0.01 < worst <= stated, figure
    shown = preflight(describe(load_config(PLAN), find_card("RTX 4090"))).to_json()
    assert shown["memory"]["largest_errors"] == ERRORS
