"""Rewards tried before a run: on the data's answers, and on groups of completions."""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

import pytest
import torch

from finetune.config import RewardConfig
from finetune.errors import DataError
from finetune.rl.baselines import group_mean, leave_one_out
from finetune.rl.reward_trial import Trial, judge, try_on_answers
from finetune.rl.rewards import Completion, Scorer, make_scorers


@pytest.fixture
def rewards():
    made: list[Scorer] = []

    def _rewards(*configs: dict) -> list[Scorer]:
        made.extend(make_scorers([RewardConfig(**config) for config in configs]))
        return made[-len(configs) :]

    yield _rewards
    for one in made:
        one.close()


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The configuration of a reward whose function has this body."""
    monkeypatch.chdir(tmp_path)

    def _function(body: str, **more) -> dict:
        (tmp_path / "judging.py").write_text(f"import time\ndef score(completion):\n    {body}\n", encoding="utf-8")
        return {"type": "python", "function": "judging.score", **more}

    return _function


def answers(*texts: str | None, **columns) -> list[Completion]:
    """The rows' own answers, as completions."""
    return [
        Completion("?", text or "", 3, f"rows.jsonl line {number}", text, columns)
        for number, text in enumerate(texts, 1)
    ]


def refused(scorers: list[Scorer], completions: list[Completion]) -> DataError:
    with pytest.raises(DataError) as caught:
        try_on_answers(scorers, completions)
    assert caught.value.exit_code == 4
    return caught.value


def test_answers_that_score_are_only_told(rewards) -> None:
    scorers = rewards({"type": "exact"}, {"type": "regex", "pattern": "####"}, {"type": "format", "shape": "json"})
    assert try_on_answers(scorers, answers("#### 4", "5", "#### 6", "7")) == [
        "exact gives 1 on average to 4 answers of the data",
        "regex gives 0.5 on average to 4 answers of the data",
        "format gives 0 to all 4 answers of the data: they may not be written as it asks",
    ]


def test_rows_without_answers_are_tried_empty(rewards, function) -> None:
    scorers = rewards({"type": "regex", "pattern": "a"}, function("return len(completion)"))
    told = "no row has an answer of its own: rewards were tried on empty completions"
    assert try_on_answers(scorers, answers(None, None)) == [told]
    told = [
        "regex gives 1 on average to 1 answer of the data",
        "python:judging.score gives 2 on average to 1 answer of",
    ]
    assert [a.startswith(b) for a, b in zip(try_on_answers(scorers, answers(None, "ab")), told, strict=True)] == [
        True
    ] * 2


def test_rows_without_the_answer_to_compare_with_are_refused_and_named(rewards) -> None:
    error = refused(rewards({"type": "exact"}), answers("4", None, "5", ""))
    assert error.message == (
        "exact could not score 2 of 4 completions tried\n"
        "  rows.jsonl line 2: no answer to compare with\n"
        "  rows.jsonl line 4: an empty answer"
    )
    assert (
        error.hint
        == "name the column that holds the right answer (column: ...), write it into these rows, or leave them out"
    )
    error = refused(rewards({"type": "exact", "column": "final"}), answers("4", id=1))
    assert "  rows.jsonl line 1: no column 'final' among id" in error.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 1 / (len(completion) - 2)", "ZeroDivisionError: division by zero (judging.py line 3)"),
        ("return 'good' if completion == 'ok' else 1", "returned 'good', which is no finite number"),
        ("time.sleep(60 * (completion == 'ok'))", "took longer than 0.5 s (judging.py line 3)"),
    ],
)
def test_a_function_that_fails_on_an_answer_is_refused(rewards, function, body: str, words: str) -> None:
    body = body if body.startswith("return") else f"{body}; return 1"
    error = refused(rewards(function(body, timeout=0.5)), answers("one", "ok", "three"))
    title = "python:judging.score could not score 1 of 3 completions tried"
    assert error.message == f"{title}\n  rows.jsonl line 2: {words}"
    assert error.hint == "judging.score has to return a finite number for every completion within timeout=0.5 s"


def test_every_reward_that_fails_is_named_at_once_but_not_every_row(rewards, function) -> None:
    scorers = rewards(
        function("raise KeyError('x')"), {"type": "exact", "column": "gold"}, {"type": "regex", "pattern": "a"}
    )
    error = refused(scorers, answers(*"abcdefgh"))
    assert error.message.count("could not score 5 of 5 completions tried") == 2
    assert error.message.count("KeyError: 'x'") == 5
    assert "line 5" in error.message
    assert "line 6" not in error.message
    assert "judging.score has to return" in error.hint
    assert "name the column that holds the right answer" in error.hint


def test_a_function_that_always_hangs_does_not_hold_the_trial_for_every_row(rewards, function) -> None:
    started = time.monotonic()
    refused(rewards(function("time.sleep(60)", timeout=0.1)), answers(*["text"] * 64))
    assert time.monotonic() - started < 20


def test_a_pattern_found_in_no_long_answer_is_refused(rewards) -> None:
    scorers = rewards({"type": "exact", "extract": r"answer is (\d+)"})
    error = refused(scorers, answers("2 + 2\n#### 4", "2 + 3\n#### 5"))
    assert error.message == (
        "exact gives 0 to every right answer: extract='answer is (\\\\d+)' is found in none of 2, so that a completion "
        "would have to hold all of one, several lines, such as '2 + 2\\n#### 4' (rows.jsonl line 1)"
    )
    assert error.hint == "write an extract that finds the result in the answers too, or name a column that holds it"
    # Marks that the completion has and a short answer lacks are the common case.
    notes = try_on_answers(scorers, answers("4", "5"))
    assert notes == ["exact gives 0 to all 2 answers of the data: they may not be written as it asks"]
    assert try_on_answers(scorers, answers("2 + 2\n#### 4", "so the\nanswer is 5"))


def trial(scorers: list[Scorer], *groups: str, longest: int | None = None) -> Trial:
    """On groups of completions, whose words are one completion each; the answer of every prompt is `a`."""
    found = [
        [Completion("?", text, len(text), f"rows.jsonl line {number}", "a") for text in group.split()]
        for number, group in enumerate(groups, 1)
    ]
    completions = [one for group in found for one in group]
    return judge(scorers, found, [scorer.score(completions) for scorer in scorers], longest)


def test_the_figures_of_a_trial(rewards) -> None:
    scorers = rewards({"type": "exact", "weight": 2.0}, {"type": "regex", "pattern": "c", "weight": -1.0})
    found = trial(scorers, "a b ca bbbb", "b d e f", longest=4)
    assert found.groups == [[2, 0, -1, 0], [0, 0, 0, 0]]
    assert found.rewards == [2, 0, -1, 0, 0, 0, 0, 0]
    assert found.spread == pytest.approx(statistics.stdev([2, 0, -1, 0]) / 2)
    assert found.dead == 0.5
    assert found.cut == 1 / 8
    assert found.means == {"exact": 1 / 8, "regex": 1 / 8}
    assert found.notes == [
        "rewards of 8 completions of 2 prompts: mean 0.125 (exact 0.125, regex 0.125), spread within a prompt 0.629, "
        "50% of groups dead",
        "completions have 2 tokens on average; 12% of them reached rollout.max_completion_length",
    ]
    found.require()


def test_a_dead_group_is_one_whose_advantages_are_all_zero(rewards) -> None:
    """Whichever baseline is in use."""
    generator = random.Random(0)
    groups = [" ".join(generator.choice("ab") for _ in range(3)) for _ in range(40)]
    found = trial(rewards({"type": "exact"}), *groups)
    rewards_GK = torch.tensor(found.groups)
    for baseline in (leave_one_out, group_mean):
        zero = (rewards_GK - baseline(rewards_GK)).abs().amax(1) < 1e-6
        assert found.dead == pytest.approx(zero.float().mean().item())
    assert 0.1 < found.dead < 0.5


def nothing(found: Trial) -> DataError:
    with pytest.raises(DataError) as caught:
        found.require()
    assert caught.value.exit_code == 4
    return caught.value


def test_rewards_that_are_always_zero_are_refused(rewards) -> None:
    error = nothing(trial(rewards({"type": "exact"}), "b c", "d e", longest=50))
    assert error.message == (
        "nothing can be learned from these rewards: all 4 completions of 2 prompts have the same, 0, such as 'b' "
        "(rows.jsonl line 1)"
    )
    assert error.hint == (
        "teach the format by sft first; take easier prompts; reward part of the way as well; raise "
        "rollout.num_generations or rollout.temperature; rollout.trial_prompts=0 skips this trial"
    )


def test_rewards_that_are_always_the_same_are_refused(rewards) -> None:
    error = nothing(trial(rewards({"type": "regex", "pattern": ".*", "weight": 0.5}), "b c", "d e"))
    assert "all 4 completions of 2 prompts have the same, 0.5, such as 'b'" in error.message
    assert error.hint.startswith(
        "take harder prompts; add a reward that tells these completions apart; raise rollout.num"
    )


def test_groups_without_spread_are_refused(rewards) -> None:
    found = trial(rewards({"type": "exact"}), "a a", "b b", "a a")
    error = nothing(found)
    assert (
        "within each of 3 prompts all are equal, though between prompts they go from 0 to 1, such as" in error.message
    )
    assert found.dead == 1
    assert found.notes[0].endswith("spread within a prompt 0, 100% of groups dead")
    assert len(found.notes) == 2, "that no reward teaches anything is the refusal's to say"
    trial(rewards({"type": "exact"}), "a a", "b b", "a b").require()


def test_completions_that_are_cut_are_said_to_be_too_long(rewards) -> None:
    assert nothing(trial(rewards({"type": "exact"}), "bbb ccc d", longest=3)).hint.startswith(
        "raise rollout.max_completion_length; teach the format"
    )
    assert "max_completion" not in nothing(trial(rewards({"type": "exact"}), "bbb c d", longest=3)).hint


def test_a_reward_that_teaches_nothing_beside_one_that_does_is_only_told(rewards) -> None:
    scorers = rewards({"type": "exact"}, {"type": "format", "shape": "json"}, {"type": "regex", "pattern": "^a"})
    found = trial(scorers, "a b", "ab b")
    assert found.notes[-1] == "format is equal within every group: it teaches nothing yet"
    assert found.idle == ["format"]
    found.require()


def test_a_completion_that_a_reward_failed_on_is_refused(rewards, function) -> None:
    scorers = rewards(function("return 1 / (completion != 'c')"), {"type": "exact"})
    found = trial(scorers, "a b", "a c")
    error = nothing(found)
    assert error.message == (
        "python:judging.score could not score 1 of 4 completions tried\n"
        "  rows.jsonl line 2: ZeroDivisionError: division by zero (judging.py line 3)"
    )
    assert "judging.score has to return a finite number" in error.hint
    assert found.groups == [[2, 1], [2, 0]], "the other reward counts alone"
    assert found.means == {"python:judging.score": 1, "exact": 0.5}


def test_many_faults_are_counted_and_the_first_named(rewards, function) -> None:
    found = trial(rewards(function("raise ValueError")), "a b c d", "a b c d")
    lines = nothing(found).message.splitlines()
    assert lines[0] == "python:judging.score could not score 8 of 8 completions tried"
    assert lines[1] == "  rows.jsonl line 1: ValueError (judging.py line 3)"
    assert (len(lines), lines[-1]) == (7, "  and 3 more")
    assert found.notes == []
