"""Rewards of text: what each gives to which completion, and their sum."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from repo import REPO

from finetune.config import RewardConfig
from finetune.rl import text_rewards
from finetune.rl.rewards import Completion, Scorer, make_scorers, total


def scorer(**reward) -> Scorer:
    return make_scorers([RewardConfig(**reward)])[0]


def written(text: str, answer: str | None = None, tokens: int = 0, **columns) -> Completion:
    return Completion("What?", text, tokens, "rows.jsonl line 3", answer, columns)


def score(one: Scorer, *completions: Completion) -> list[float | None]:
    found = one.score(completions)
    assert one.faults == []
    return found


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("Paris", "Paris", 1),
        ("  paris\n", "PARIS", 1),
        ("New \n York", "New York", 1),
        ("NewYork", "New York", 0),
        ("Strasse", "Straße", 1),
        ("1,000", "1000.0", 1),
        ("1000.", "1000", 1),
        ("+.50", "0.5", 1),
        ("\N{MINUS SIGN}3", "-3", 1),
        ("1e3", "1000", 1),
        ("10,00", "1000", 0),
        ("1,0005", "10005", 0),
        ("12345678901234567.1", "12345678901234567.2", 0),
        ("3", "-3", 0),
        ("3 apples", "3", 0),
        (".", "0", 0),
        ("", "0", 0),
        ("1/2", "0.5", 0),
    ],
)
def test_an_exact_answer_is_one_but_for_space_case_and_the_way_a_number_is_written(text, answer, right) -> None:
    assert score(scorer(type="exact"), written(text, answer)) == [right]


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("So 3 and 4: #### 7", "3 + 4 is\n#### 7", 1),
        ("#### 7, no, #### 8", "#### 8", 1),
        ("#### 8, no, #### 7", "#### 8", 0),
        ("8", "#### 8", 0),
        ("#### 7", "7", 1),
        ("7", "7", 0),
    ],
)
def test_the_last_match_is_compared_and_all_of_an_answer_without_one(text, answer, right) -> None:
    assert score(scorer(type="exact", extract=r"#### (\d+)"), written(text, answer)) == [right]


def test_a_match_without_its_group_is_none() -> None:
    one = scorer(type="exact", extract=r"=(\d)|never")
    assert score(one, written("=5, never", "5"), written("never", "5")) == [1, 0]


def test_another_column_may_hold_the_answer_as_a_number_too() -> None:
    one = scorer(type="exact", column="final")
    found = score(one, written("72", "a long way", final=72), written("72.0", final="72"), written("true", final=True))
    assert found == [1, 1, 1]


@pytest.mark.parametrize(
    ("completion", "words"),
    [
        (written("7"), "no answer to compare with"),
        (written("7", "  "), "an empty answer"),
        (written("7", "7", id=1, level=2), "no column 'final' among id, level"),
        (written("7", "7", final=None), "no column 'final' to compare with"),
        (written("7", "7", final=[7]), "column 'final' is a list, not text or a number"),
    ],
)
def test_a_row_without_a_right_answer_is_named(completion: Completion, words: str) -> None:
    one = scorer(type="exact", column=None if "answer" in words else "final")
    assert one.score([completion, written("7", "7", final=7)]) == [None, 1]
    assert one.faults == [f"rows.jsonl line 3: {words}"]
    assert score(one, written("7", "7", final=7)) == [1], "faults are of the latest call"


def test_a_pattern_may_be_found_anywhere_and_has_its_own_flags() -> None:
    one = scorer(type="regex", pattern=r"the answer is \d")
    assert score(one, written("So the answer is 4."), written("The answer is 4"), written("the answer\nis 4")) == [
        1,
        0,
        0,
    ]
    assert score(scorer(type="regex", pattern="a.b"), written("a\nb")) == [0]
    assert score(scorer(type="regex", pattern="(?is)A.b"), written("a\nB")) == [1]


@pytest.mark.parametrize("reward", [{"type": "regex", "pattern": "(a|aa)+$"}, {"type": "exact", "extract": "(a|aa)+$"}])
def test_a_pattern_that_backtracks_without_end_is_given_up(reward, monkeypatch) -> None:
    monkeypatch.setattr(text_rewards, "PATTERN_SECONDS", 0.1)
    one, started = scorer(**reward), time.monotonic()
    assert one.score([written("a" * 60 + "b", "c"), written("caa", "aa")])[0] is None
    assert time.monotonic() - started < 10
    assert one.faults == ["rows.jsonl line 3: '(a|aa)+$' was not done with 61 characters after 0.1 s"]
    assert "no repetition inside a repetition" in scorer(type="regex", pattern="a").rule.hint


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"a": 1}', 1),
        (' \n[1, 2.5, "x"]\n', 1),
        ("[]", 1),
        ("42", 0),
        ('"word"', 0),
        ("null", 0),
        ("", 0),
        ('```json\n{"a": 1}\n```', 0),
        ('{"a": 1} and more', 0),
        ('{"a": 1}{"b": 2}', 0),
        ("{'a': 1}", 0),
        ("[NaN]", 0),
        ("[-Infinity]", 0),
        ("[" + "9" * 10_000 + "]", 1),
        ("[" * 100_000, 0),
    ],
)
def test_json_is_one_object_or_array_and_no_more(text: str, right: float) -> None:
    assert score(scorer(type="format", shape="json"), written(text)) == [right]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("<think>so</think><answer>4</answer>", 1),
        ("\n<think>so\nlong</think>\n\n<answer> 4 </answer>\n", 1),
        ("<think>a < b </p></think><answer>4</answer>", 1),
        ("<answer>4</answer><think>so</think>", 0),
        ("<think>so</think>", 0),
        ("<think> </think><answer>4</answer>", 0),
        ("<think>so</think><answer></answer>", 0),
        ("well <think>so</think><answer>4</answer>", 0),
        ("<think>so</think> hm <answer>4</answer>", 0),
        ("<think>so</think><answer>4</answer>.", 0),
        ("<think>so</think><answer>4</answer><answer>5</answer>", 0),
        ("<think>so <answer>3</answer></think><answer>4</answer>", 0),
        ("<think>so<answer>4</think></answer>", 0),
        ("<think>so</think><answer>4", 0),
        ("</think>so<think><answer>4</answer>", 0),
        ("", 0),
    ],
)
def test_tags_come_once_in_order_filled_and_alone(text: str, right: float) -> None:
    assert score(scorer(type="format", shape="tags", tags=["think", "answer"]), written(text)) == [right]


def test_length_falls_in_a_line_on_both_sides() -> None:
    one = scorer(type="length", min=4, max=10)
    texts = [written("word " * count) for count in (0, 1, 2, 4, 7, 10, 15, 20, 30)]
    assert score(one, *texts) == [0, 0.25, 0.5, 1, 1, 1, 0.5, 0, 0]
    assert score(scorer(type="length", max=10), written("")) == [1]
    assert score(scorer(type="length", min=10), written("a b " * 100)) == [1]


@pytest.mark.parametrize(("unit", "count"), [("characters", 7), ("words", 2), ("tokens", 5)])
def test_length_counts_its_unit(unit: str, count: int) -> None:
    completion = written("one  to", tokens=5)
    assert score(scorer(type="length", min=count, max=count, unit=unit), completion) == [1]
    assert score(scorer(type="length", min=count + 1, unit=unit), completion) == [pytest.approx(count / (count + 1))]


def test_names_are_unique() -> None:
    kinds = [{"type": "exact"}, *[{"type": "regex", "pattern": "a"}] * 3, {"type": "format", "shape": "json"}]
    names = [one.name for one in make_scorers([RewardConfig(**kind) for kind in kinds])]
    assert names == ["exact", "regex", "regex_2", "regex_3", "format"]


def test_the_sum_is_weighted_and_leaves_out_what_is_unknown() -> None:
    scorers = [scorer(type="exact", weight=2.0), scorer(type="regex", pattern="a", weight=-0.5)]
    assert total(scorers, [[1.0, 0.0, None, None], [1.0, 1.0, 1.0, None]]) == [1.5, -0.5, -0.5, None]


def test_rewards_need_neither_torch_nor_gymnasium() -> None:
    """Data is tried on them before anything heavy is loaded."""
    script = "import sys, finetune.rl.reward_trial as _; sys.exit('torch' in sys.modules or 'gymnasium' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=REPO, check=False).returncode == 0
