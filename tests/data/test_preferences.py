"""Preferences and prompts: from rows to what the trainers of other methods get."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.config import load_config
from finetune.data import load_data
from finetune.data.formats import convert
from finetune.data.load import LoadedData
from finetune.data.rows import Row, read_rows
from finetune.errors import DataError
from finetune.spec import resolve

USER = {"role": "user", "content": "hi"}
GOOD, BAD = {"role": "assistant", "content": "hello"}, {"role": "assistant", "content": "go"}
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "preference"


def pair(value: dict) -> tuple[list[dict], list[dict]]:
    """The messages of both sides of a row."""
    (one,), name = convert([Row(value, "t.jsonl line 1", 0)], method="dpo")
    assert one.fault is None, one.fault.what
    assert (name, [example.side for example in one.examples]) == ("preference", ["chosen", "rejected"])
    return tuple(example.messages for example in one.examples)


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": "hi", "chosen": "hello", "rejected": "go"},
        {"question": "hi", "chosen": "hello", "rejected": "go"},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"messages": [USER], "chosen": GOOD, "rejected": BAD},
        {
            "conversations": [{"from": "human", "value": "hi"}],
            "chosen": {"from": "gpt", "value": "hello"},
            "rejected": {"from": "gpt", "value": "go"},
        },
        {"chosen_messages": [USER, GOOD], "rejected_messages": [USER, BAD]},
        {"instruction": "hi", "input": "", "chosen": "hello", "rejected": "go"},
    ],
)
def test_every_shape_of_a_preference(value: dict) -> None:
    assert pair(value) == ([USER, GOOD], [USER, BAD])


def test_earlier_answers_are_only_read() -> None:
    before = [USER, GOOD, USER]
    chosen, rejected = pair({"chosen": [*before, GOOD], "rejected": [*before, BAD]})
    assert [turn.get("train", True) for turn in chosen if turn["role"] == "assistant"] == [False, True]
    assert chosen[:-1] == rejected[:-1]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"chosen": [USER, GOOD], "rejected": [GOOD, BAD]}, "two answers to different prompts"),
        ({"chosen": "hello", "rejected": "go"}, "no prompt"),
        ({"prompt": "hi", "chosen": "go", "rejected": "go"}, "twice the same answer"),
        ({"chosen": [USER, GOOD], "rejected": [USER]}, "no rejected answer"),
        ({"prompt": "hi", "chosen": "hello", "rejected": " "}, "an empty rejected answer"),
        ({"prompt": "hi", "chosen": "hello", "rejected": 3}, "turns that are not a list"),
    ],
)
def test_what_is_no_preference(value: dict, words: str) -> None:
    (one,), _ = convert([Row(value, "t.jsonl line 1", 0)], method="dpo")
    assert one.fault.what == words
    assert one.fault.hint


@pytest.mark.parametrize(
    ("value", "method", "words"),
    [
        ({"messages": [USER, GOOD]}, "dpo", "rows of prompt, chosen and rejected"),
        ({"prompt": "hi", "chosen": "hello", "rejected": "go"}, "rloo", "answers prompts itself"),
        ({"text": "words"}, "grpo", "answers prompts itself"),
        ({"prompt": "hi"}, "dpo", "learns from answers"),
    ],
)
def test_a_method_says_what_it_learns_from(value: dict, method: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        convert([Row(value, "t.jsonl line 1", 0)], method=method)
    assert words in caught.value.hint


def test_a_format_must_be_one_of_the_method() -> None:
    with pytest.raises(DataError) as caught:
        convert([Row({"messages": [USER, GOOD]}, "t.jsonl line 1", 0)], "messages", method="dpo")
    assert caught.value.message == "data.format=messages, but training.method=dpo"


@pytest.mark.parametrize(("name", "count"), [("dpo_en_demo.json", 300), ("v1_dpo_demo.jsonl", 10)])
def test_real_preferences_are_all_read(name: str, count: int) -> None:
    if not SHARED.is_dir():
        pytest.skip("the shared data folder is not beside the repository")
    converted, _ = convert(read_rows(str(SHARED / name), role="train", seed=0), method="dpo")
    assert len(converted) == count
    assert not [one.fault for one in converted if one.fault]


def loaded(config_file: Path, tmp_path: Path, rows: list[dict], *overrides: str) -> LoadedData:
    """The data of a run on `rows`, none held out."""
    path = tmp_path / "data.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    config = load_config(config_file, [f"data.train={path}", "data.eval=null", "data.max_length=160", *overrides])
    return load_data(resolve(config))


class TestPairs:
    def test_sides_share_their_prompt_and_end_with_the_stop_token(self, config_file: Path, tmp_path: Path) -> None:
        row = {"prompt": "Say a number.", "chosen": "seven", "rejected": "set"}
        data = loaded(config_file, tmp_path, [row], "training.method=dpo")
        (found,) = data.train_dataset
        text = {name: data.tokenizer.decode(ids) for name, ids in found.items()}
        stop = text["chosen_ids"].removeprefix("seven")
        assert stop and not stop.isspace() and text["rejected_ids"] == f"set{stop}"
        assert text["prompt_ids"].startswith(data.encoder.prompt(data.train.examples[0])[:20])
        assert "Say a number." in text["prompt_ids"]
        assert data.lengths() == [len(found["prompt_ids"]) + max(len(found["chosen_ids"]), len(found["rejected_ids"]))]
        assert (data.train.stats.rows, len(data.train.rows)) == (1, 2)

    def test_a_pair_of_which_one_side_is_too_long_goes_whole(self, config_file: Path, tmp_path: Path) -> None:
        short = {"prompt": "Say.", "chosen": "a", "rejected": "b"}
        long = {"prompt": "Say.", "chosen": "a", "rejected": "word " * 200}
        data = loaded(config_file, tmp_path, [short, long], "training.method=dpo", "data.on_truncation=drop")
        stats = data.train.stats
        assert (stats.rows, stats.dropped, stats.truncated, len(data.train_dataset)) == (1, 1, 1, 1)

    def test_a_cut_pair_is_one_truncated_answer(self, config_file: Path, tmp_path: Path) -> None:
        long = {"prompt": "Say.", "chosen": "word " * 300, "rejected": "term " * 300}
        with pytest.raises(DataError) as caught:
            loaded(config_file, tmp_path, [long], "training.method=dpo")
        assert "1 row has a truncated answer" in caught.value.message
        assert "100.0% of data.train" in caught.value.message


class TestPrompts:
    REWARD = "rewards=[{type: regex, pattern: a}]"

    def prompts(self, config_file: Path, tmp_path: Path, rows: list[dict], *overrides: str) -> LoadedData:
        settings = [
            "training.method=rloo",
            self.REWARD,
            "rollout.num_generations=2",
            "rollout.max_completion_length=16",
        ]
        return loaded(config_file, tmp_path, rows, *settings, "training.gradient_accumulation_steps=1", *overrides)

    def test_the_last_answer_is_the_rows_own(self, config_file: Path, tmp_path: Path) -> None:
        turns = [USER, GOOD, {"role": "user", "content": "again"}, BAD]
        data = self.prompts(config_file, tmp_path, [{"messages": turns, "level": 3}])
        (prompt,) = data.train.prompts
        assert (prompt.asked, prompt.answer, prompt.columns["level"]) == ("again", "go", 3)
        assert "hello" in prompt.rendered and "go" not in prompt.rendered.replace("good", "")
        assert prompt.rendered.endswith(data.encoder.template.header)
        assert data.lengths() == [len(prompt.input_ids) + 16]

    def test_a_prompt_needs_no_answer(self, config_file: Path, tmp_path: Path) -> None:
        data = self.prompts(config_file, tmp_path, [{"prompt": "What?"}, {"prompt": "Why?"}])
        assert [(prompt.asked, prompt.answer) for prompt in data.train.prompts] == [("What?", None), ("Why?", None)]
        turned = self.prompts(config_file, tmp_path, [{"messages": [USER]}])
        assert (turned.train.prompts[0].asked, turned.train.prompts[0].answer) == ("hi", None)

    def test_question_and_answer(self, config_file: Path, tmp_path: Path) -> None:
        (prompt,) = self.prompts(config_file, tmp_path, [{"question": "1 + 1?", "answer": "2"}]).train.prompts
        assert (prompt.asked, prompt.answer) == ("1 + 1?", "2")

    def test_a_prompt_without_room_is_refused_or_left_out(self, config_file: Path, tmp_path: Path) -> None:
        rows = [{"prompt": "What?"}, {"prompt": "word " * 200}]
        with pytest.raises(DataError) as caught:
            self.prompts(config_file, tmp_path, rows)
        assert "leaves no room for rollout.max_completion_length=16 within data.max_length=160" in caught.value.message
        data = self.prompts(config_file, tmp_path, rows, "data.on_truncation=drop")
        assert (data.train.stats.rows, data.train.stats.dropped) == (1, 1)
        assert "train: 1 prompt that leave no room for a completion, left out" in data.notes

    def test_fewer_prompts_than_an_update_answers_are_refused(self, config_file: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError) as caught:
            self.prompts(config_file, tmp_path, [{"prompt": "What?"}], "training.gradient_accumulation_steps=2")
        assert caught.value.message == "data.train has 1 prompt, but an update answers 2, each 2 times"
        assert "training.gradient_accumulation_steps=2" in caught.value.hint

    def test_prompts_out_of_order_are_breaches(self, config_file: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError) as caught:
            self.prompts(config_file, tmp_path, [{"messages": [USER, USER]}])
        assert "roles out of order" in caught.value.message
