"""Activations are kept where the run fits with them and room to spare, and what is learned is the same."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from repo import REPO
from rich.console import Console

from finetune import pipeline
from finetune.config import load_config
from finetune.errors import ConfigError
from finetune.preflight import decide_recomputing, find_card, predict, preflight, priced, show
from finetune.preflight.changes import changed
from finetune.preflight.depth import price
from finetune.preflight.recomputing import KEY, ROOM
from finetune.spec import RunSpec, describe

PLAN = REPO / "configs" / "qlora_r16_qwen2.5-7b.yaml"


def _plan(card: str, value: str = "auto", *overrides: str) -> RunSpec:
    return describe(load_config(PLAN, [f"{KEY}={value}", "data.max_length=512", *overrides]), find_card(card))


def _recomputed(card: str, *overrides: str) -> int:
    return decide_recomputing(_plan(card, "auto", *overrides)).recomputed_layers


def test_all_are_kept_where_there_is_room_and_some_recomputed_a_little_below() -> None:
    needed = priced(_plan("24GiB"), {KEY: False}) / (1 - ROOM) / 2**20
    assert _recomputed(f"{int(needed * 1.01)}MiB") == 0
    assert 0 < _recomputed(f"{int(needed * 0.99)}MiB") <= 2


def test_as_few_are_recomputed_as_the_memory_allows() -> None:
    """Fewer on a larger card; each choice fits with its room, and one layer fewer would not have it."""
    found = {}
    for gigabytes in (6, 8, 10, 12, 16, 24):
        decided = decide_recomputing(_plan(f"{gigabytes}GiB"))
        allowed, found[gigabytes] = (1 - ROOM) * decided.device.memory_bytes, decided.recomputed_layers
        if 0 < decided.recomputed_layers < decided.layers:
            assert predict(decided).process <= 1.02 * allowed
            fewer = dataclasses.replace(decided, config=changed(decided.config, {KEY: decided.recomputed_layers - 1}))
            assert price(decided).process <= allowed < price(fewer).process
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert len(set(found.values())) > 3 and max(found.values()) == 28


def test_offloading_has_all_checkpoints_to_move() -> None:
    assert _recomputed("H200", "training.activation_offloading=true") == 28


@pytest.mark.parametrize(("value", "card"), [("true", "H200"), ("false", "8GiB"), ("9", "H200")])
def test_what_the_configuration_says_stays(value: str, card: str) -> None:
    spec = _plan(card, value)
    assert decide_recomputing(spec) is spec


def test_a_description_alone_recomputes() -> None:
    spec = _plan("H200")
    assert spec.config.training.gradient_checkpointing == "auto"
    assert spec.trainer_fields() == _plan("H200", "true").trainer_fields()
    assert predict(spec).allocated == predict(_plan("H200", "true")).allocated


def test_a_preflight_decides_and_says_so() -> None:
    config = load_config(PLAN, [f"{KEY}=auto", "data.max_length=512"])
    small, large = (pipeline.look_ahead(config, card) for card in ("6GiB", "H200"))
    assert small.spec.config.training.gradient_checkpointing is True
    assert large.spec.config.training.gradient_checkpointing is False
    assert 0.66 < large.flops_per_update / small.flops_per_update < 0.8, "a forward pass of the layers less"
    assert large.prediction.allocated > 1.5 * small.prediction.allocated


def test_more_layers_than_there_are(config_file: Path, tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=f"gradient_checkpointing: 3 layers, but {tiny_model} has 2") as caught:
        describe(load_config(config_file, [f"{KEY}=3"]))
    assert caught.value.hint == "write true for all of them, or auto"


def test_kept_activations_are_not_offloaded(config_file: Path) -> None:
    with pytest.raises(ConfigError, match="gradient_checkpointing=1 keeps the activations of other layers"):
        load_config(config_file, [f"{KEY}=1", "training.activation_offloading=true"])


def test_a_verdict_says_how_many() -> None:
    out = Console(file=io.StringIO(), width=200)
    for value in ("9", "false", "true"):
        show(preflight(_plan("24GiB", value)), out)
    text = out.file.getvalue()
    assert "to an update, 9 of 28 layers recomputed" in text
    assert "update, nothing recomputed" in text and text.count("recomputed") == 2


def test_other_words_are_refused(config_file: Path) -> None:
    with pytest.raises(ConfigError, match="gradient_checkpointing"):
        load_config(config_file, [f"{KEY}=sometimes"])
