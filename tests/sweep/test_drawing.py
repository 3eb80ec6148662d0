"""Which trials there are: every combination of a grid, values drawn by a seed, none twice."""

from __future__ import annotations

import math
import sys

import pytest

from finetune.config import SweepConfig
from finetune.errors import ConfigError
from finetune.sweep.drawing import draw


def asked(search: dict, **more) -> SweepConfig:
    return SweepConfig(config="run.yaml", search=search, output_dir="out", **more)


def test_a_grid_is_every_combination_once() -> None:
    drawn = draw(asked({"lora.r": [4, 8, 8], "lora.target_modules": [["q_proj"], "all-linear"], "data.eval": [None]}))
    assert sorted(map(str, drawn)) == sorted(
        str({"lora.r": r, "lora.target_modules": modules, "data.eval": None})
        for r in (4, 8)
        for modules in (["q_proj"], "all-linear")
    )


def test_of_a_larger_grid_some_are_taken_by_the_seed() -> None:
    grid = {"lora.r": list(range(1, 11)), "lora.alpha": list(range(1, 11))}
    some = draw(asked(grid, trials=8))
    assert len(some) == len({str(one) for one in some}) == 8
    assert some == draw(asked(grid, trials=8))
    assert some != draw(asked(grid, trials=8, seed=7))
    assert len(draw(asked(grid, trials=500))) == 100


def test_draws_lie_in_their_range_and_are_the_same_for_the_same_seed() -> None:
    search = {
        "lora.r": [8, 16],
        "training.learning_rate": {"loguniform": [1e-5, 1e-3]},
        "lora.dropout": {"uniform": [0, 0.1]},
        "training.optimizer": {"choice": ["sgd", "adamw_torch"]},
    }
    drawn = draw(asked(search, trials=60))
    assert drawn == draw(asked(search, trials=60))
    rates = [one["training.learning_rate"] for one in drawn]
    assert all(1e-5 <= rate <= 1e-3 for rate in rates)
    assert len(set(rates)) == 60
    below = sum(rate < 1e-4 for rate in rates)
    assert 18 <= below <= 42, "half of them lie below the geometric mean"
    assert all(0 <= one["lora.dropout"] <= 0.1 for one in drawn)
    assert {one["lora.r"] for one in drawn} == {8, 16}
    assert {one["training.optimizer"] for one in drawn} == {"sgd", "adamw_torch"}
    assert drawn != draw(asked(search, trials=60, seed=1))


def test_no_trial_is_drawn_twice_and_drawing_ends() -> None:
    drawn = draw(asked({"lora.r": {"choice": [4, 8]}, "lora.alpha": {"choice": [1, 2]}}, trials=50))
    assert len(drawn) == 4


def test_a_mean_of_draws_is_that_of_the_range() -> None:
    drawn = draw(asked({"lora.dropout": {"uniform": [0.2, 0.6]}}, trials=400))
    mean = sum(one["lora.dropout"] for one in drawn) / 400
    assert math.isclose(mean, 0.4, abs_tol=3 * 0.4 / math.sqrt(12 * 400))


def test_without_ray_it_says_what_installs_it(monkeypatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="`finetune sweep` needs Ray Tune") as refused:
        draw(asked({"lora.r": [4]}))
    assert refused.value.hint == "pip install 'finetune[ray]'"
