"""Sense features beside a sentence vector on BANKING77: the committed figures, and a part of them computed anew."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from checked_page import Page
from repo import REPO
from scipy.stats import binomtest

from finetune.embeddings import LayerEncoder, open_encoder
from finetune.senses.views import unit

INTENTS = ("card_arrival", "card_delivery_estimate", "lost_or_stolen_card", "lost_or_stolen_phone")
"""Two pairs that are easily taken for each other."""


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/senses_banking77.py."""
    monkeypatch.syspath_prepend(REPO / "benchmarks")
    return importlib.import_module("senses_banking77")


@pytest.fixture
def result() -> dict[str, Any]:
    return json.loads((REPO / "benchmarks" / "results" / "senses_banking77.json").read_text(encoding="utf-8"))


@pytest.fixture
def part(shared: Path, benchmark: ModuleType) -> list[tuple[list[str], list[str]]]:
    """Thirty training and ten test rows of each of INTENTS."""
    found = []
    for name, count in (("train", 30), ("test", 10)):
        texts, intents = map(np.array, benchmark.read(shared / "data" / "banking77" / f"{name}.csv"))
        places = np.concatenate([np.flatnonzero(intents == intent)[:count] for intent in INTENTS])
        found.append((texts[places].tolist(), intents[places].tolist()))
    return found


def test_the_committed_figures_reach_the_limit(benchmark: ModuleType, result: dict[str, Any]) -> None:
    assert result["limit"] == benchmark.LIMIT == 0.93 and not benchmark.missed(result)
    assert (result["train"], result["test"], result["labels"]) == (10003, 3080, 77)
    assert set(result["accuracy"]) == {"TF-IDF", "without", "with", "without and TF-IDF", "with and TF-IDF"}
    for one in result["accuracy"].values():
        interval = binomtest(round(one["accuracy"] * 3080), 3080).proportion_ci(method="wilson")
        assert (one["low"], one["high"]) == pytest.approx((interval.low, interval.high))
    assert result["accuracy"]["TF-IDF"]["accuracy"] < result["accuracy"]["without"]["accuracy"]


def test_a_miss_is_seen(benchmark: ModuleType, result: dict[str, Any]) -> None:
    result["accuracy"]["with"]["accuracy"] = 0.9299
    assert benchmark.missed(result)


def test_the_choice_is_the_best_in_folds_of_the_training_rows(result: dict[str, Any]) -> None:
    for name, tried in result["tried"].items():
        assert result["chosen"][name] == max(tried, key=lambda one: one["accuracy"])
    assert all(one["parts"] == [0] for one in result["tried"]["without"])
    assert all(len(one["parts"]) > 1 for one in result["tried"]["with"])


def test_rows_that_one_way_alone_tells_make_up_the_difference(result: dict[str, Any]) -> None:
    for pair in result["paired"]:
        one, other = (round(result["accuracy"][pair[side]]["accuracy"] * 3080) for side in ("one", "other"))
        assert pair["one_alone"] - pair["other_alone"] == one - other
        assert pair["p"] == pytest.approx(binomtest(pair["one_alone"], pair["one_alone"] + pair["other_alone"]).pvalue)


def test_the_page_of_data_says_what_was_found(result: dict[str, Any]) -> None:
    page, found = Page(REPO / "docs" / "data.md"), result["accuracy"]
    share = {name: f"{one['accuracy']:.1%}".replace("%", " %") for name, one in found.items()}
    span = {name: f"({100 * one['low']:.1f} to {100 * one['high']:.1f})" for name, one in found.items()}
    page.says(f"are right on {share['without']} of {result['test']:,} test rows {span['without']}")
    page.says(f"TF-IDF on {share['TF-IDF']} {span['TF-IDF']}, both side by side on {share['without and TF-IDF']}")
    page.says(f"side by side on {share['without and TF-IDF']} {span['without and TF-IDF']}.")
    page.says(f"reach {share['with']} {span['with']} and are no better than")
    joined = next(one for one in result["paired"] if (one["one"], one["other"]) == ("with", "without"))
    page.says(f"(p = {joined['p']:.2f}, exact McNemar)")
    assert joined["p"] > 0.05


def test_mcnemar_by_hand(benchmark: ModuleType) -> None:
    right = {"a": np.array([1, 1, 1, 1, 0, 0], bool), "b": np.array([1, 0, 0, 0, 0, 1], bool)}
    assert benchmark.paired("a", "b", right) == {"one": "a", "other": "b", "one_alone": 3, "other_alone": 1, "p": 0.625}
    assert benchmark.paired("a", "a", right)["p"] == 1


def test_a_part_of_the_rows(
    benchmark: ModuleType, part: list[Any], encoder: LayerEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(benchmark, "STRENGTHS", (10.0,))
    monkeypatch.setattr(benchmark, "WEIGHTS", (0.5,))
    found = benchmark.compare(*part, encoder)
    assert (found["train"], found["test"], found["labels"]) == (120, 40, 4)
    assert len(found["tried"]["with"]) == len(benchmark.PARTS) and len(found["tried"]["without"]) == 1
    assert found["accuracy"]["with"]["accuracy"] > 0.85, "chance is one in four"
    text = json.dumps(found)
    assert not any(row in text for texts, _ in part for row in texts)


def test_parts_are_the_sentence_vector_and_others_centred(
    benchmark: ModuleType, part: list[Any], encoder: LayerEncoder
) -> None:  # fmt: skip
    train, test = part[0][0][::10], part[1][0][::10]
    fitted, tested = benchmark.states(encoder, train, test)
    assert fitted.shape == (12, 6, 384) and tested.shape == (4, 6, 384)
    sentences = open_encoder(encoder.name).encode([*train, *test])
    expected = unit(sentences - sentences[: len(train)].mean(0))
    np.testing.assert_allclose(np.concatenate([fitted, tested])[:, 0], expected, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(fitted, axis=-1), 1, atol=1e-5)
    both = benchmark.joined(fitted, [0, 4], 0.5)
    np.testing.assert_allclose(both, np.concatenate([fitted[:, 0], fitted[:, 4] / 2], axis=1))
    np.testing.assert_array_equal(benchmark.joined(fitted, benchmark.SENTENCE, 1.0), fitted[:, 0])
