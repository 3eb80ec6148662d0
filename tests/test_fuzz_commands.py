"""A thousand broken configurations, command lines, rows and run directories each end in words; the committed figures
say so of more."""

from __future__ import annotations

import importlib
import json

import pytest
from repo import REPO


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.syspath_prepend(REPO / "benchmarks")
    return importlib.import_module("fuzz")


def test_a_thousand_cases(fuzz) -> None:
    found = fuzz.run(1000, seed=11)
    assert found["faults"] == []
    kinds = {row["kind"] for row in found["rows"]}
    assert len(kinds) == 6
    codes = {row["code"] for row in found["rows"]}
    assert {0, 2, 4} <= codes <= fuzz.CODES


def test_the_committed_run(fuzz) -> None:
    found = json.loads((REPO / "benchmarks" / "results" / "fuzz.json").read_text(encoding="utf-8"))
    assert found["cases"] == sum(row["cases"] for row in found["rows"]) >= 10_000
    assert found["faults"] == []
    assert {row["code"] for row in found["rows"]} <= fuzz.CODES


@pytest.mark.parametrize(
    ("words", "ended", "wrong"),
    [
        (["plan"], (1, "", "Traceback (most recent call last)"), "a traceback"),
        (["plan"], (1, "", "error: x\nhint: y"), "exit code 1"),
        (["plan"], (2, "", ""), "no word of what is wrong"),
        (["plan"], (2, "", "error: x"), "an error without a hint"),
        (["plan", "--json"], (0, "{} {}", ""), "more or less than one JSON value on stdout"),
        (["plan", "--json"], (0, "{}", ""), None),
        (["plan"], (2, "", "error: x\n\nhint: y"), None),
    ],
)
def test_what_counts_as_a_fault(fuzz, words, ended, wrong) -> None:
    assert fuzz.fault(words, *ended) == wrong
