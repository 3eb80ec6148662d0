"""Rows with labelled defects: what rules find of them, as the committed table says, and what they flag elsewhere."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
from repo import REPO

from finetune.data.check import check_file

MESSY = Path("data") / "messy_instructions"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPO / "benchmarks")
    return importlib.import_module("rules_messy")


@pytest.fixture
def committed() -> dict:
    return json.loads((REPO / "benchmarks" / "results" / "rules_messy.json").read_text(encoding="utf-8"))


def test_recall_and_precision(bench: ModuleType, committed: dict, shared: Path) -> None:
    result = bench.score(shared / MESSY / "messy.jsonl")
    assert len(result["kinds"]) == 16
    for kind, one in result["kinds"].items():
        assert one["recall"] >= 0.95 and one["precision"] >= 0.9, kind
    for way in ("all", "strict"):
        assert result[way]["recall"] >= 0.95
        assert result[way]["precision"] >= 0.95
        assert result[way]["clean_flagged"] <= 0.02
    assert result == {key: value for key, value in committed.items() if key != "other_data"}


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("gsm8k/train.jsonl", 0.001),
        ("self_instruct_seed/seed_tasks.jsonl", 0.01),
        ("self_instruct_seed/user_oriented_instructions.jsonl", 0.01),
        ("chat_samples/v1_sft_demo.jsonl", 0.05),
        ("toolcalls/reason_tool_use_demo_50.jsonl", 0.05),
    ],
)
def test_other_data_is_left_alone(name: str, allowed: float, bench: ModuleType, committed: dict, shared: Path) -> None:
    result = bench.false_alarms(shared / "data" / name)
    assert result["flagged"] <= allowed
    assert result == committed["other_data"][name]


def test_all_nine_faults_of_the_broken_file_are_named(tmp_path: Path, shared: Path) -> None:
    side = tmp_path / "bad.jsonl"
    result = check_file(shared / MESSY / "broken.jsonl", skip_bad=side)
    assert {bad.line: bad.rule for bad in result.bad_lines} == {
        6: "truncated_json",
        10: "trailing_comma",
        14: "single_quotes",
        18: "blank_line",
        22: "not_a_number",
        26: "invalid_utf8",
        30: "several_objects",
        34: "repeated_key",
        38: "not_an_object",
    }
    assert (result.rows, len(result.bad_lines)) == (40, 9)
    assert sum(result.formats.values()) + result.counts["untrainable"] == 31
    assert result.notes == ["1 byte-order mark, left out", "1 line with CRLF at the end"]
    assert [json.loads(line)["line"] for line in side.open(encoding="utf-8")] == [6, 10, 14, 18, 22, 26, 30, 34, 38]


def test_an_empty_turn_of_a_real_conversation(shared: Path) -> None:
    (finding,) = check_file(shared / MESSY / "conversation.missingturns.json").findings
    assert (finding.row, finding.rule, finding.detail) == (0, "untrainable", "an empty assistant turn: turn 2")
