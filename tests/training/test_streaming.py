"""Rows that are read while the run trains: the same rows and masks, the same guards, the same bits after a resume."""

from __future__ import annotations

import io
import json
import re
import weakref
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pytest
import torch
from assembly import assemble
from rich.console import Console
from test_nonfinite import lines, spoil
from test_nonfinite import run as spoilt_run
from test_resume import metrics, same_adapters

from finetune import pipeline
from finetune.config import load_config
from finetune.data import blocks, load_data, streaming
from finetune.data.blocks import Blocks
from finetune.data.mask_check import check_masks
from finetune.errors import ConfigError, DataError, FinetuneError, RunDirError
from finetune.preflight import Batch
from finetune.spec import describe
from finetune.training.rehearsal import _extremes

STREAM = ["data.streaming=true"]
KEYS = [*STREAM, "lora.dropout=0.1", "training.max_steps=7", "training.save_steps=2", "training.logging_steps=3"]
PLAIN = ["training.rehearsal=false", "training.sample_answers=0"]
PACKED = ["data.packing=true", "data.max_length=96"]


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two rows, two of them a window: twelve rows are three windows."""
    monkeypatch.setattr(blocks, "BLOCK", 2)
    monkeypatch.setattr(streaming, "WINDOW", 4 * 128)


def train(config_file: Path, name: str, *overrides: str, said: io.StringIO | None = None, **options: bool):
    """A run of its own directory, on a stream."""
    output = config_file.parent / name
    config = load_config(config_file, [*KEYS, *overrides, f"output_dir={output}"])
    return output, pipeline.train(config, Console(file=said or io.StringIO(), width=1000), **options)


def plain(rows: Iterable[dict]) -> Counter:
    """Rows by their tokens and labels."""
    return Counter(json.dumps([row["input_ids"], row["labels"]]) for row in rows)


def line_in_window(config_file: Path, window: int) -> int:
    """The number of a line that is read in a window."""
    spec = describe(load_config(config_file, STREAM))
    stream = load_data(spec).stream
    return int(stream.converted(window)[1].row.where.rpartition(" ")[2])


def replaced(path: Path, line: int, text: str) -> str:
    """Writes another line in the place of one; what was there."""
    found = path.read_text(encoding="utf-8").splitlines()
    before, found[line - 1] = found[line - 1], text
    path.write_text("\n".join(found) + "\n", encoding="utf-8")
    return before


class TestRows:
    def test_a_pass_is_every_row_once_as_load_data_makes_it(self, config_file):
        whole, streamed = assemble(config_file).data, assemble(config_file, *STREAM).data
        rows = iter(streamed.stream)
        first, second = list(islice(rows, 12)), list(islice(rows, 12))
        assert plain(first) == plain(second) == plain(whole.train_dataset)
        assert [row["input_ids"] for row in first] != [row["input_ids"] for row in second]
        assert streamed.train_stats == whole.train.stats
        assert streamed.stream.passes == 2

    def test_a_window_mixes_the_file(self, config_file):
        stream = assemble(config_file, *STREAM, "training.seed=1").data.stream
        windows = [[one.row.index for one in stream.converted(window)] for window in range(6)]
        first, second = windows[:3], windows[3:]
        assert sorted(number for window in first for number in window) == list(range(12))
        assert any(max(window) - min(window) > 3 for window in first)
        assert first != second

    def test_sources_have_formats_of_their_own(self, config_file, rows_file, tmp_path):
        other = tmp_path / "other.jsonl"
        other.write_text("".join(json.dumps({"prompt": f"Q{n}", "completion": "A"}) + "\n\n" for n in range(5)))
        both = f"data.train=[{{path: {rows_file}}}, {{path: {other}}}]"
        whole, streamed = assemble(config_file, both).data, assemble(config_file, *STREAM, both).data
        assert streamed.stream.blocks.count == 17
        assert plain(islice(streamed.stream, 17)) == plain(whole.train_dataset)

    def test_the_packs_of_a_window_are_those_of_its_rows(self, config_file):
        data = assemble(config_file, *STREAM, *PACKED).data
        packs = list(islice(data.stream, 20))
        assert all(sum(pack["seq_lengths"]) == len(pack["input_ids"]) <= 96 for pack in packs)
        assert any(len(pack["seq_lengths"]) > 1 for pack in packs)
        assert data.train_stats.rows == 12

    @pytest.mark.parametrize("packing", [[], PACKED], ids=["rows", "packs"])
    def test_every_row_is_named_by_its_file_and_line(self, config_file, rows_file, packing):
        data = assemble(config_file, *STREAM, *packing).data
        for row in islice(data.stream, 20):
            asked = re.findall(r"Say (\d+) words", data.tokenizer.decode(row["input_ids"]))
            assert data.places(row["number"]) == [f"{rows_file} line {number}" for number in asked]

    def test_going_on_reads_one_window(self, config_file, monkeypatch):
        """Wherever the stream was; nothing before it is read again."""
        whole = assemble(config_file, *STREAM).data.stream
        rows = iter(whole)
        for _ in range(30):
            next(rows)
        state, expected = json.loads(json.dumps(whole.state())), list(islice(rows, 10))
        other, read = assemble(config_file, *STREAM).data.stream, []
        rows_of = Blocks.rows
        monkeypatch.setattr(Blocks, "rows", lambda self, number: read.append(number) or rows_of(self, number))
        other.restore(state)
        rows = iter(other)
        found = [next(rows)]
        assert len(read) == 2, "the blocks of the window"
        assert [*found, *islice(rows, 9)] == expected
        assert other.seen == whole.seen


class TestRuns:
    def test_one_update_over_all_rows_is_that_of_a_run_that_holds_them(self, config_file):
        """Where every row is in the update, their order does not matter but for rounding."""
        keys = ["training.max_steps=1", "training.micro_batch_size=4", "training.gradient_accumulation_steps=3"]
        streamed, whole = (assemble(config_file, *keys, f"data.streaming={streams}") for streams in ("true", "false"))
        losses = [one.trainer.train().training_loss for one in (streamed, whole)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        for name in ("rows_seen", "tokens_seen", "trained_seen"):
            assert getattr(streamed.trainer, name) == getattr(whole.trainer, name)
        assert streamed.trainer.state.epoch == whole.trainer.state.epoch == 1
        for name, tensor in streamed.adapter().items():
            torch.testing.assert_close(tensor, whole.adapter()[name], rtol=1e-4, atol=1e-6)

    def test_a_breach_of_a_later_window_is_counted_and_said(self, config_file, rows_file, held_out_file):
        lost, copied = line_in_window(config_file, 1), line_in_window(config_file, 2)
        replaced(rows_file, lost, json.dumps({"messages": [{"role": "user", "content": "alone"}]}))
        leak = held_out_file.read_text(encoding="utf-8").splitlines()[3]
        replaced(rows_file, copied, leak)
        said = io.StringIO()
        _, report = train(config_file, "run", *PLAIN, said=said)
        expected = [
            f"train: 12 of 12 rows were read; {report['train']['epochs']:.2f} passes over them in all",
            f"train: 1 row has no assistant turn, left out: {rows_file} line {lost}",
            f"eval: 1 row has a copy among the training rows (train_row_in_eval): {held_out_file} line 4 "
            f"(the same as {rows_file} line {copied})",
        ]
        for line in expected:
            assert line in report["notes"]
            assert line in said.getvalue()
        assert (report["data"]["train"]["rows"], report["data"]["train"]["dropped"]) == (11, 1)
        assert report["train"]["epochs"] == pytest.approx(28 / 11, abs=0.1)

    def test_a_faulty_line_ends_the_run_which_goes_on_once_it_is_mended(self, config_file, rows_file):
        """From the middle of a window, over more than two passes: to the bit what it would have been."""
        keys = [*PACKED, "training.save_steps=1"]
        whole, expected = train(config_file, "whole", *keys)
        line = line_in_window(config_file, 2)
        before = replaced(rows_file, line, '{"messages": [')
        with pytest.raises(DataError) as caught:
            train(config_file, "run", *keys)
        run = config_file.parent / "run"
        assert caught.value.message.startswith(f"{rows_file}: 1 faulty line\n  line {line}: ")
        assert caught.value.hint == (
            "each line holds one whole JSON object, in UTF-8; then go on with "
            f"`finetune train {run / 'config.yaml'} --resume --allow-drift`"
        )
        assert caught.value.exit_code == 4
        replaced(rows_file, line, before)
        with pytest.raises(RunDirError, match=r"has changed since it began: data\.train\.\S+ was \w{12}, is \w{12}\n"):
            train(config_file, "run", *keys, resume=True)
        said = io.StringIO()
        _, report = train(config_file, "run", *keys, resume=True, allow_drift=True, said=said)
        assert "the run goes on from checkpoint-1" in said.getvalue()
        assert same_adapters(whole, run)
        assert metrics(run) == metrics(whole)
        for key in ("rows", "tokens", "trained_tokens", "steps", "epochs", "loss"):
            assert report["train"][key] == expected["train"][key]
        for key in ("data", "notes", "eval_loss", "samples"):
            assert report[key] == expected[key]
        assert report["train"]["epochs"] > 2
        assert [line["epoch"] for line in metrics(run) if "loss" in line][-1] == round(report["train"]["epochs"], 4)
        assert report["data"]["train"]["rows"] == 12
        assert report["rehearsal"]["tokens"] == 2 * 96

    def test_rows_that_spoil_an_update_are_named(self, config_file, rows_file):
        def spoiling(assembly) -> None:
            row = list(islice(assembly.data.stream, 11))[10]
            assembly.data.stream.restore({"at": 0, "taken": 0, "seen": {"stats": None, "kinds": {}, "copied": {}}})
            (spoiling.place,) = assembly.data.places(row["number"])
            spoil(assembly, [row["input_ids"]])

        keys = ["data.train=" + str(rows_file), *STREAM, "training.logging_steps=1"]
        with pytest.raises(FinetuneError, match=r"the loss is nan at step 2, from \S+ line \d+: "):
            spoilt_run(config_file, *keys, spoiling=spoiling)
        assert lines(config_file)[0]["rows"] == [spoiling.place]

    @pytest.mark.parametrize("packing", [[], PACKED], ids=["rows", "packs"])
    def test_the_rehearsal_takes_rows_of_the_longest_that_there_may_be(self, config_file, packing):
        streamed = assemble(config_file, *STREAM, *packing)
        most = streamed.spec.config.data.max_length
        _, largest, longest = _extremes(streamed.trainer)
        assert (len(largest), longest) == (2, most)
        batch = streamed.trainer.batch_of(largest)
        assert batch["input_ids"].shape == batch["labels"].shape == (2, most)
        expected = Batch(2, most, padded=not packing, packed=bool(packing))
        assert pipeline.largest_batch(streamed.spec, streamed.data) == expected

    def test_a_plan_prices_every_row_at_max_length(self, config_file):
        plan = pipeline.plan_ahead(load_config(config_file, [*STREAM, "training.max_steps=6"]), with_data=True)
        assert (plan.updates.examples, plan.updates.total, plan.updates.epochs) == (12, 6, 2)
        assert not plan.tokens.exact
        packed = pipeline.plan_ahead(load_config(config_file, [*STREAM, *PACKED]), with_data=True)
        assert packed.updates.examples is None


class TestRefusals:
    @pytest.mark.parametrize(
        ("overrides", "words"),
        [
            (
                ["training.max_steps=null"],
                "data.streaming=true needs training.max_steps: how many updates a pass makes",
            ),
            (["training.method=dpo"], "data.streaming=true is for sft: training.method=dpo reads its rows before it"),
            (
                ["data.eval=null", "data.eval_fraction=0.1"],
                "data.eval_fraction=0.1 holds rows out of all that there are, which data.streaming=true never sees "
                "together: name a file of others as data.eval",
            ),
            (
                ["data.train=[{path: a.jsonl, weight: 0.5}]"],
                "data.train: weight 0.5 of a.jsonl: data.streaming=true takes every row once in a pass",
            ),
        ],
    )
    def test_what_no_stream_can_do(self, config_file, overrides, words):
        with pytest.raises(ConfigError) as caught:
            load_config(config_file, [*STREAM, *overrides])
        assert words in caught.value.message

    @pytest.mark.parametrize(
        ("name", "message", "hint"),
        [
            ("absent.jsonl", "{path}: no such file", "check data.train; paths start at the working directory"),
            ("org/name", "data.streaming=true reads files of type .jsonl, and org/name is no file here", "write the"),
            ("rows.csv", "data.streaming=true reads files of type .jsonl, and {path} is not one", "write the rows to"),
            ("folder", "data.streaming=true reads files of type .jsonl, and {path} is a directory", "write the rows"),
            ("empty.jsonl", "{path}: the file is empty", "write the file again or name another"),
            ("blank.jsonl", "{path}: holds no rows", "write the file again or name another"),
        ],
    )
    def test_what_is_no_file_of_lines(self, config_file, tmp_path, name, message, hint):
        (tmp_path / "folder").mkdir()
        for file, content in {"rows.csv": "a\n1\n", "empty.jsonl": "", "blank.jsonl": "\n \n"}.items():
            (tmp_path / file).write_text(content, encoding="utf-8")
        path = name if "/" in name else tmp_path / name
        with pytest.raises(FinetuneError) as caught:
            assemble(config_file, *STREAM, f"data.train={path}")
        assert caught.value.message == message.format(path=path)
        assert caught.value.hint.startswith(hint)
        assert caught.value.exit_code == (4 if name in ("empty.jsonl", "blank.jsonl") else 2)

    def test_a_file_that_cannot_be_read(self, config_file, rows_file, monkeypatch):
        monkeypatch.setattr(blocks, "_places", lambda path: Path("/proc/self/mem").read_bytes())  # not even by root
        with pytest.raises(ConfigError) as caught:
            assemble(config_file, *STREAM)
        assert caught.value.message == f"{rows_file}: cannot be read (Input/output error)"
        assert caught.value.hint == "check the path and its permissions"

    def test_a_file_that_goes_away(self, config_file, rows_file):
        stream = assemble(config_file, *STREAM).data.stream
        rows_file.rename(rows_file.with_suffix(".away"))
        with pytest.raises(DataError) as caught:
            stream.converted(1)
        assert caught.value.message == f"{rows_file}: cannot be read any more (No such file or directory)"
        assert caught.value.hint == "see to the disk, or put the file back"

    def test_an_empty_list(self, config_file):
        with pytest.raises(ConfigError, match=r"^data\.train: the list of sources is empty"):
            assemble(config_file, *STREAM, "data.train=[]")

    def test_the_first_window_is_held_to_the_mask_contract(self, config_file, rows_file):
        line = line_in_window(config_file, 0)
        replaced(rows_file, line, json.dumps({"messages": [{"role": "user", "content": "alone"}]}))
        with pytest.raises(DataError) as caught:
            assemble(config_file, *STREAM)
        assert caught.value.message == f"1 row has no assistant turn: {rows_file} line {line}"

    def test_a_row_of_another_format(self, config_file, rows_file):
        stream = assemble(config_file, *STREAM).data.stream
        line = line_in_window(config_file, 2)
        replaced(rows_file, line, json.dumps({"text": "as it is"}))
        with pytest.raises(DataError, match="the file was changed while it is read"):
            stream.converted(2)
        stream = assemble(config_file, *STREAM).data.stream
        with pytest.raises(DataError) as caught:
            stream.converted(2)
        assert caught.value.message.startswith("rows of 2 different formats, which first appear at\n")
        assert f"text: {rows_file} line {line} (keys: text)" in caught.value.message


def test_what_is_said_before_a_run(config_file):
    data = assemble(config_file, *STREAM).data
    said = (
        "train: streamed, 12 rows in 3 windows; before the run the first of them is looked at, and what is said of "
        "train is of that one"
    )
    assert said in data.notes
    assert ": 4 rows of format messages (found by looking)" in data.notes[0]
    assert check_masks(load_config(config_file, STREAM), []).notes == [said]


def test_two_windows_are_held_at_most(config_file, rows_file):
    """Also where they have faults, which remember where they were found."""
    for line in (line_in_window(config_file, window) for window in range(1, 3)):
        replaced(rows_file, line, json.dumps({"messages": [{"role": "user", "content": "alone"}]}))
    stream, seen = assemble(config_file, *STREAM).data.stream, []
    for _ in islice(stream, 40):
        window = stream.window(stream.at)
        if all(known() is not window for known in seen):
            seen.append(weakref.ref(window))
        del window
        assert sum(known() is not None for known in seen) <= 2
    assert len(seen) > 10
