"""What embeddings find where rules do not, as committed and as the page says."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from repo import REPO

from finetune.embeddings import open_encoder

COMMITTED = json.loads((REPO / "benchmarks" / "results" / "curation_messy.json").read_text(encoding="utf-8"))


def test_the_committed_figures_are_measured(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers")
    monkeypatch.syspath_prepend(REPO / "benchmarks")
    bench = importlib.import_module("curation_messy")
    labelled = shared / "data" / "messy_instructions" / "messy.jsonl"
    found = bench.messy(labelled, open_encoder(COMMITTED["encoder"]))
    assert found["clean"] == COMMITTED["clean"]
    for kind, committed in COMMITTED["kinds"].items():
        assert found["kinds"][kind]["rows"] == committed["rows"]
        assert committed["flagged_by_rules"] == 0, "then it is a defect that rules find"
        assert found["kinds"][kind]["auc"] == pytest.approx(committed["auc"], abs=0.02), kind


def test_the_page_says_what_was_measured() -> None:
    page = (REPO / "docs" / "data.md").read_text(encoding="utf-8")
    mismatched = COMMITTED["kinds"]["mismatched_output"]["auc"]
    unknown = json.loads((REPO / "benchmarks" / "results" / "banking77.json").read_text(encoding="utf-8"))["unknown"]
    figures = [mismatched["neighbour_distance"], mismatched["question_unlike_answer"], *unknown["mean"].values()]
    for figure in figures:
        assert f"{figure:.3f}".removeprefix("0") in page
    assert f"{unknown['held_out_intents']} of 77 intents" in page
