"""Real data beside the repository, in part; and the committed figures of all of it."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from repo import REPO

from finetune.embeddings import LayerEncoder
from finetune.senses import fit
from finetune.senses.baselines import bag_of_words, majority
from finetune.senses.minimal_pairs import PAIRS, minimal_pairs

RESULTS = REPO / "benchmarks" / "results" / "senses_wsd.json"


@pytest.fixture(scope="module")
def data() -> ModuleType:
    sys.path.insert(0, str(REPO / "benchmarks"))
    return importlib.import_module("senses_data")


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def right(told: list, rows: list) -> float:
    return float(np.mean([one == row.label for one, row in zip(told, rows, strict=True)]))


def test_minimal_pairs_are_pairs(data: ModuleType) -> None:
    pairs = data.lines(PAIRS)
    assert len(pairs) >= 100 and len({pair["lemma"] for pair in pairs}) >= 4
    assert len({pair["frame"] + pair["chess"] for pair in pairs}) == len(pairs)
    assert [pair["half"] for pair in pairs].count("held") >= 50
    rows = minimal_pairs()
    assert len(rows) == 2 * len(pairs)
    for row in rows:
        assert row.occurrence.word in (row.lemma, f"{row.lemma}s")


@pytest.mark.parametrize(("word", "least"), [("yard", 0.9), ("digit", 0.95)])
def test_a_word_of_coarsewsd20(shared: Path, data: ModuleType, encoder: LayerEncoder, word: str, least: float) -> None:
    train, test = (data.coarse(shared / "data" / "coarsewsd20", word, split) for split in ("train", "test"))
    told = [one.label for one in fit(train, encoder).predict(test, encoder)]
    assert right(told, test) >= least
    assert right(told, test) > right(majority(train, test), test)


def test_held_back_minimal_pairs_by_a_quarter_of_king_senses(
    shared: Path, data: ModuleType, encoder: LayerEncoder
) -> None:  # fmt: skip
    train = data.marked(data.lines(shared / "data" / "king_senses" / "train.jsonl")[::4])
    rows = minimal_pairs("held")
    told = [one.label for one in fit(train, encoder).predict(rows, encoder)]
    assert right(told, rows) >= 0.85
    assert right(bag_of_words(train, rows), rows) < 0.7
    assert right(majority(train, rows), rows) == 0.5


def test_committed_figures_reach_the_limits(results: dict[str, Any]) -> None:
    sys.path.insert(0, str(REPO / "benchmarks"))
    assert importlib.import_module("senses_wsd").misses(results) == []
    assert results["limits"] == {"coarse": 0.94, "king": 0.96, "pairs": 0.85}
    assert len(results["coarsewsd20"]["words"]) == 14
    for word in results["coarsewsd20"]["words"].values():
        assert word["accuracy"]["senses"] == pytest.approx(word["senses"]["accuracy"])
        assert word["senses"]["accuracy_interval"][0] <= word["senses"]["accuracy"]
    assert results["minimal_pairs"]["held"]["accuracy"]["bag_of_words"] < 0.65, "a bag of words must be near chance"
    assert "commit" in results["environment"]


def test_a_miss_is_seen(results: dict[str, Any]) -> None:
    misses = importlib.import_module("senses_wsd").misses
    changed = json.loads(json.dumps(results))
    changed["coarsewsd20"]["words"]["pitcher"]["above_majority"] = False
    changed["king_senses"]["book_left_out"]["accuracy"]["senses"] = 0.9
    changed["minimal_pairs"]["held"]["accuracy"]["senses"] = 0.8
    changed["coarsewsd20"]["mean_accuracy"]["senses"] = 0.93
    assert misses(changed) == [
        "pitcher: not above the commonest sense",
        "coarse: 0.9300 < 0.94",
        "king: 0.9000 < 0.96",
        "pairs: 0.8000 < 0.85",
    ]


def test_ways_to_tell_senses_stand_in_their_order(results: dict[str, Any]) -> None:
    means = results["coarsewsd20"]["mean_accuracy"]
    assert means["senses"] > means["bag_of_words"] > means["one_nearest_row"] > means["majority"]
    wic = results["wic"]["accuracy"]
    assert wic["own_state"] > wic["static"]
