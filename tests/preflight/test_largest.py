"""The search for the largest value, on costs made up for it and on a real run."""

from __future__ import annotations

import pytest
from repo import REPO

from finetune.config import load_config
from finetune.errors import ConfigError, DoesNotFit
from finetune.preflight import find_card, predict, solve
from finetune.preflight.changes import changed, words
from finetune.preflight.largest import search
from finetune.spec import describe

PLAN = REPO / "configs" / "qlora_r16_qwen2.5-7b.yaml"


@pytest.mark.parametrize("now", [1, 7, 300, 4000])
@pytest.mark.parametrize("allowed", [101, 250, 9_000, 1_000_000])
@pytest.mark.parametrize("power", [1, 2, 3])
def test_the_search_finds_the_last_that_fits(now: int, allowed: int, power: int) -> None:
    asked = []

    def cost(value: int) -> int:
        asked.append(value)
        return 100 + value**power // 7

    found = search(cost, now, 1, 5000, allowed)
    best = max(value for value in range(1, 5001) if 100 + value**power // 7 <= allowed)
    assert found == best
    assert len(asked) < 40
    assert len(asked) == len(set(asked)), "no value is paid for twice"


def test_the_search_stays_on_its_grid_and_below_its_end() -> None:
    assert search(lambda value: value, 1000, 128, 4096, 1000) == 896
    assert search(lambda value: 1, 1000, 128, 4096, 1000) == 4096
    assert search(lambda value: value, 1000, 128, 4096, 100) is None


def test_a_search_that_may_stop_near_stops_sooner() -> None:
    asked: dict[float, int] = {}
    for near in (0.0, 0.1):
        values: list[int] = []
        found = search(lambda value, seen=values: seen.append(value) or value**2, 8, 1, 10_000, 10_000_000, near)
        asked[near] = len(values)
        assert 10_000_000 * (1 - near) <= (found + 1) ** 2
        assert found**2 <= 10_000_000
    assert asked[0.1] < asked[0.0]


@pytest.mark.parametrize("what", ["seq_len", "micro_batch_size"])
def test_what_is_solved_for_fits_and_a_step_more_does_not(what: str) -> None:
    key, step = {"seq_len": ("data.max_length", 128), "micro_batch_size": ("training.micro_batch_size", 1)}[what]
    card = find_card("16GiB")
    spec = describe(load_config(PLAN, ["training.loss_kernel=full_logits"]), card)
    found = solve(spec, what)
    assert found % step == 0
    at, beyond = (
        predict(describe(changed(spec.config, {key: value}), card)).process / card.memory_bytes
        for value in (found, found + 2 * step)
    )
    assert at <= 1.0
    assert beyond > 0.94, "it stops where the memory ends, less what is kept free"


def test_a_sequence_is_no_longer_than_the_model_s_positions() -> None:
    spec = describe(load_config(PLAN), find_card("H200"))
    assert solve(spec, "seq_len") == spec.model_config.max_position_embeddings


def test_faults_of_max() -> None:
    spec = describe(load_config(PLAN), find_card("24GiB"))
    with pytest.raises(ConfigError, match="--max: 'rank' cannot be solved for") as caught:
        solve(spec, "rank")
    assert caught.value.hint == "--max takes seq_len or micro_batch_size"
    small = describe(load_config(PLAN), find_card("3GiB"))
    with pytest.raises(DoesNotFit, match="does not fit on a card of 3GiB whatever the seq_len"):
        solve(small, "seq_len")


def test_a_changed_micro_batch_keeps_the_effective_batch_and_says_so() -> None:
    config = load_config(PLAN, ["training.micro_batch_size=4", "training.gradient_accumulation_steps=4"])
    assert changed(config, {"training.micro_batch_size": 1}).training.effective_batch_size == 16
    assert words(config, {"training.micro_batch_size": 1}) == (
        "training.micro_batch_size=1 training.gradient_accumulation_steps=16"
    )
    assert words(config, {"training.activation_offloading": True}) == "training.activation_offloading=true"
