"""The whole of `data:`: what is counted, said, left out and held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.data import to_dataset
from finetune.data.encode import IGNORED
from finetune.errors import DataError


def write(path: Path, values: list[dict]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def questions(path: Path, count: int, words: int = 1) -> Path:
    return write(path, [{"question": f"Q{index}?", "answer": f"A{index}" + " word" * words} for index in range(count)])


def refusal(load, *overrides: str) -> DataError:
    with pytest.raises(DataError) as caught:
        load(*overrides)
    assert caught.value.exit_code == 4
    return caught.value


class TestCounting:
    def test_counts_are_those_of_the_rows(self, load, rows_file):
        train = load().train
        stats = train.stats
        assert (stats.source, stats.format, stats.rows) == (str(rows_file), "messages", 12)
        assert (stats.truncated, stats.dropped) == (0, 0)
        assert stats.tokens == sum(len(row.input_ids) for row in train.rows)
        assert stats.trained_tokens == sum(label != IGNORED for row in train.rows for label in row.labels)
        assert 0 < stats.trained_tokens < stats.tokens
        assert stats.longest == max(row.length for row in train.rows)

    def test_rows_keep_their_order_and_their_examples(self, load, rows_file):
        data = load()
        assert [example.where for example in data.train.examples] == [f"{rows_file} line {n}" for n in range(1, 13)]
        assert data.train_dataset["input_ids"][:] == [row.input_ids for row in data.train.rows]
        assert data.train_dataset["labels"][:] == [row.labels for row in data.train.rows]

    def test_format_and_sizes_are_said(self, load, rows_file, held_out_file):
        data = load()
        splits = {"train": (data.train.stats, rows_file), "eval": (data.eval.stats, held_out_file)}
        assert data.notes == [
            f"{role}: {file}: 12 rows of format messages (found by looking), {stats.tokens:,} tokens, "
            f"{stats.trained_tokens / stats.tokens:.0%} of them trained, longest row {stats.longest:,}"
            for role, (stats, file) in splits.items()
        ]
        assert "format messages (as configured)" in load("data.format=messages").notes[0]


class TestTooLong:
    def test_rows_are_cut_counted_and_reported(self, load):
        data = load("data.max_length=40", "data.eval=null", "data.max_truncated=1")
        too_long = [row for row in data.train.rows if row.length > 40]
        assert data.train.stats.truncated == len(too_long) > 0
        assert all(len(row.input_ids) == 40 for row in too_long)
        assert data.train.stats.dropped == 0
        assert data.notes[1] == f"train: {len(too_long)} rows longer than data.max_length=40, cut there"
        lost = len(too_long) - 1  # one row loses no more than the line break behind its stop token
        share = f"{lost / 12:.1%} of data.train, where data.max_truncated=1:"
        said = f"train: {lost} rows have a truncated answer (truncated_answer), {share}"
        assert len(data.notes) == 3 and data.notes[2].startswith(said)

    def test_or_left_out_counted_and_reported(self, load):
        whole = load("data.eval=null").train
        data = load("data.max_length=40", "data.eval=null", "data.on_truncation=drop")
        short = [row for row in whole.rows if row.length <= 40]
        assert data.train.rows == short
        assert data.train.stats.truncated == data.train.stats.dropped == 12 - len(short) > 0
        assert data.notes[1:] == [f"train: {12 - len(short)} rows longer than data.max_length=40, left out"]

    def test_a_row_cut_before_its_first_trained_token_is_left_out(self, load, tmp_path):
        path = write(
            tmp_path / "q.jsonl", [{"question": "why " * 50, "answer": "so"}, {"question": "w?", "answer": "so"}]
        )
        keys = f"data.train={path}", "data.eval=null", "data.max_length=50", "data.allow=[no_trained_token]"
        data = load(*keys)
        stats = data.train.stats
        assert (stats.rows, stats.truncated, stats.dropped) == (1, 1, 1)
        assert data.notes[1:] == [
            "train: 1 row longer than data.max_length=50, cut there",
            "train: 1 row has no trained token (no_trained_token), as data.allow has it, left out: "
            f"{path} line 1 (its prompt fills data.max_length=50)",
        ]

    def test_no_row_left(self, load):
        error = refusal(load, "data.max_length=2")
        assert error.message == "data.train: none of 12 rows has a trained token within data.max_length=2"
        assert error.hint == "raise it, so that answers are not cut off"

    def test_no_row_left_because_all_are_dropped(self, load):
        error = refusal(load, "data.max_length=8", "data.on_truncation=drop")
        assert error.message == "data.train: none of 12 rows is as short as data.max_length=8"
        assert error.hint == "raise it, or set data.on_truncation=cut"

    def test_no_row_left_to_evaluate_on(self, load, tmp_path):
        path = write(tmp_path / "q.jsonl", [{"question": "why " * 200, "answer": "so"}])
        assert refusal(load, f"data.eval={path}").message.startswith("data.eval: none of 1 row has")


class TestHeldOut:
    def test_a_fraction_is_seeded_and_apart(self, load, rows_file):
        options = ("data.eval=null", "data.eval_fraction=0.25")
        one, same, other = load(*options), load(*options), load(*options, "training.seed=7")
        places = [[example.where for example in split.examples] for split in (one.train, one.eval)]
        assert (len(places[0]), len(places[1])) == (9, 3)
        assert sorted(places[0] + places[1]) == sorted(f"{rows_file} line {n}" for n in range(1, 13))
        assert (one.train.rows, one.eval.rows) == (same.train.rows, same.eval.rows)
        assert one.eval.rows != other.eval.rows

    def test_copies_of_a_row_stay_together(self, load, tmp_path):
        questions(tmp_path / "a.jsonl", 20)
        questions(tmp_path / "b.jsonl", 20, words=2)
        sources = f"data.train=[{{path: {tmp_path}/a.jsonl, weight: 3}}, {{path: {tmp_path}/b.jsonl, weight: 1.5}}]"
        data = load(sources, "data.eval=null", "data.eval_fraction=0.3")
        train, held_out = ({example.where for example in split.examples} for split in (data.train, data.eval))
        assert not train & held_out
        assert len(train | held_out) == 40
        assert len(held_out) == 12
        assert data.train.stats.rows + data.eval.stats.rows == 3 * 20 + 30

    def test_instances_of_a_row_stay_together(self, load, tmp_path):
        rows = [
            {"instruction": f"i{n}", "instances": [{"input": "", "output": f"{n} {m}"} for m in range(3)]}
            for n in range(8)
        ]
        path = write(tmp_path / "seed.jsonl", rows)
        data = load(f"data.train={path}", "data.eval=null", "data.eval_fraction=0.5")
        lines = [
            {example.where.split(" instance")[0] for example in split.examples} for split in (data.train, data.eval)
        ]
        assert not lines[0] & lines[1]
        assert (data.train.stats.rows, data.eval.stats.rows) == (12, 12)

    def test_a_fraction_that_leaves_a_split_empty(self, load):
        error = refusal(load, "data.eval=null", "data.eval_fraction=0.01")
        assert error.message == "data.eval_fraction=0.01 of 12 rows leaves a split empty"
        assert error.hint == "add rows or change the share"

    def test_nothing_held_out(self, load):
        data = load("data.eval=null")
        assert data.eval is None
        assert len(data.notes) == 1


class TestSources:
    def test_each_has_its_own_format(self, load, tmp_path, rows_file):
        path = questions(tmp_path / "q.jsonl", 5)
        data = load(f"data.train=[{{path: {rows_file}}}, {{path: {path}}}]")
        assert data.train.stats.format == "messages, prompt_completion"
        assert data.train.stats.source == f"{rows_file}, {path}"
        assert [example.format for example in data.train.examples] == ["messages"] * 12 + ["prompt_completion"] * 5
        assert f"{rows_file}, {path}: 17 rows of format messages, prompt_completion (found by looking)" in data.notes[0]

    def test_a_file_has_one(self, load, tmp_path):
        path = write(tmp_path / "mixed.jsonl", [{"text": "t"}, {"question": "q", "answer": "a"}])
        assert "rows of 2 different formats" in refusal(load, f"data.train={path}").message


class TestNotes:
    def test_words_that_the_template_leaves_out(self, load, tmp_path):
        turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "hm"}]
        path = write(tmp_path / "r.jsonl", [{"messages": turns}])
        notes = load(f"data.train={path}", "data.eval=null").notes
        assert notes[1:] == [
            "train: the chat template leaves out or changes words of 1 assistant turn, such as earlier reasoning"
        ]

    def test_tools_written_as_text(self, load, tmp_path):
        call = {"function": {"name": "add", "arguments": {"a": 1}}}
        turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
        path = write(tmp_path / "t.jsonl", [{"messages": turns}])
        notes = load(f"data.train={path}", "data.eval=null").notes
        assert notes[1:] == ["train: the chat template has no tool calls: those of 1 row are written as JSON text"]

    def test_packs(self, load):
        data = load("data.packing=true", "data.eval=null")
        count = len(data.train_dataset)
        full = data.train.stats.tokens / (count * 128)
        assert data.notes[1:] == [f"12 rows packed into {count} of 128 tokens, {full:.1%} full"]


class TestSamples:
    def test_questions_spread_over_the_held_out_rows(self, load):
        samples = load().samples(3)
        assert [sample.prompt for sample in samples] == ["Cry 1 words.", "Cry 5 words.", "Cry 9 words."]
        assert samples[0].reference == "word end"
        assert samples[0].rendered == "<|im_start|>user\nCry 1 words.<|im_end|>\n<|im_start|>assistant\n"

    def test_no_more_than_there_are(self, load):
        assert len(load().samples(50)) == 12

    def test_turns_that_answer_nothing_or_say_nothing_are_no_samples(self, load, tmp_path):
        call = {"function": {"name": "add", "arguments": {}}}
        hello = {"role": "assistant", "content": "Hello"}
        rows = [
            [hello, {"role": "user", "content": "q"}, hello],
            [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [call]}, hello],
        ]
        path = write(tmp_path / "e.jsonl", [{"messages": turns} for turns in rows])
        assert load(f"data.eval={path}", "data.allow=[roles_out_of_order]").samples(3) == []

    def test_text_has_none(self, load, tmp_path):
        path = write(tmp_path / "t.jsonl", [{"text": "Hello"}])
        assert load(f"data.eval={path}").samples(3) == []


class TestSharedData:
    @pytest.mark.parametrize(
        ("name", "rows"),
        [
            ("self_instruct_seed/seed_tasks.jsonl", 175),
            ("mlx_wikisql_lora/valid.jsonl", 100),
            ("toolcalls/glaive_toolcall_en_demo.json", 300),
            ("toolcalls/reason_tool_use_demo_50.jsonl", 50),
            ("chat_samples/v1_sft_demo.jsonl", 500),
        ],
    )
    def test_every_row_is_trained_or_counted(self, load, shared, name, rows):
        # This tokenizer makes a token of each byte: many rows are longer.
        keys = "data.eval=null", "data.max_length=512", "data.max_truncated=1", "data.allow=[no_trained_token]"
        split = load(f"data.train={shared / 'data' / name}", *keys).train
        assert split.stats.rows + split.stats.dropped == rows
        assert split.stats.rows > 0
        assert all(row.trained for row in split.rows)

    def test_answers_are_trained_and_packs_are_full(self, load, shared, tmp_path):
        lines = (shared / "data" / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        path = tmp_path / "gsm8k.jsonl"
        path.write_text("".join(lines[:1500]), encoding="utf-8")
        data = load(f"data.train={path}", "data.eval=null", "data.max_length=512")
        tokenizer, split = data.tokenizer, data.train
        for example, row in zip(split.examples, split.rows, strict=True):
            if row.length <= 512:
                trained = [label for label in row.labels if label != IGNORED]
                assert tokenizer.decode(trained) == f"{example.messages[-1]['content']}<|im_end|>"
        packs = to_dataset(split.rows, packing=True, max_length=2048)
        assert split.stats.tokens / (len(packs) * 2048) > 0.998
