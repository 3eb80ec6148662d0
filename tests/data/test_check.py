"""A whole file checked: bad lines, rows and their numbers, copies, what is asked for, and what is printed."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from repo import REPO
from rich.console import Console

from finetune.config import DataConfig, DataSource, ModelConfig, RunConfig
from finetune.data import chunks
from finetune.data.check import check_file, check_sources
from finetune.data.findings import DESCRIPTIONS, CheckResult, show
from finetune.data.lines import LINE_FAULTS
from finetune.errors import ConfigError, DataError

WORDS = ("river", "stone", "lantern", "market", "window", "winter", "copper", "garden", "mirror", "candle", "harbour")


def row(output: str = "It is in the north.", instruction: str = "Where is the town?", **more: object) -> dict:
    return {"instruction": instruction, "input": "", "output": output, **more}


def written(path: Path, *lines: dict | str | bytes) -> Path:
    parts = [
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in lines
    ]
    path.write_bytes(b"".join(part + b"\n" for part in parts))
    return path


def different(count: int) -> list[dict]:
    """Rows that are no copies of each other."""
    generator = random.Random(0)
    return [row(" ".join(generator.choices(WORDS, k=30)) + f" {index}", f"What is {index}?") for index in range(count)]


def said(result: CheckResult) -> list[tuple[int, str]]:
    return [(finding.row, finding.rule) for finding in result.findings]


GOOD = json.dumps(row("a")).encode()
BAD = {
    "invalid_utf8": GOOD.replace(b'a"}', b'\xff\xfe"}'),
    "truncated_json": GOOD[:-3],
    "trailing_comma": GOOD + b",",
    "single_quotes": GOOD.replace(b'"', b"'"),
    "not_a_number": GOOD[:-1] + b', "score": NaN}',
    "control_character": GOOD.replace(b"Where is", b"Where\tis"),
    "several_objects": GOOD + GOOD,
    "repeated_key": GOOD[:-1] + b', "output": "b"}',
    "not_an_object": b"[" + GOOD + b"]",
    "half_surrogate": GOOD.replace(b"Where", b"\\ud83d"),
    "nested_too_deeply": b"[" * 100_000,
    "blank_line": b"  ",
    "invalid_json": GOOD.replace(b":", b"="),
}


class TestBadLines:
    @pytest.mark.parametrize("fault", BAD)
    def test_a_bad_line_is_named_and_loses_no_good_one(self, fault: str, tmp_path: Path) -> None:
        rows = different(4)
        broken = b"{" if fault == "blank_line" else BAD[fault]  # a blank line is named in damaged files alone
        path = written(tmp_path / "a.jsonl", *rows[:2], BAD[fault], *rows[2:], broken, row("Yes.<|im_end|>"))
        result = check_file(path)
        first = result.bad_lines[0]
        assert (first.line, first.rule) == (3, fault)
        assert first.raw == (b"" if fault == "blank_line" else BAD[fault])
        assert [finding for finding in said(result) if finding[1] not in LINE_FAULTS] == [(6, "template_tokens")]
        assert (result.rows, result.formats) == (7, {"alpaca": 5})

    def test_other_forms_of_the_same_faults(self, tmp_path: Path) -> None:
        lines = [
            GOOD[:-1] + b",}",
            b'{"a": [1, 2,]}',
            b'{"a": tru',
            b'{"a": -Infinity}',
            b"null",
            b'{"a": "b"} c',
            b'{"a":',
        ]
        path = written(tmp_path / "a.jsonl", *lines, b'{"a": ' + b"9" * 5000 + b"}")
        assert [bad.rule for bad in check_file(path).bad_lines] == [
            "trailing_comma", "trailing_comma", "truncated_json", "not_a_number", "not_an_object", "invalid_json",
            "truncated_json", "invalid_json",
        ]  # fmt: skip

    def test_the_detail_says_where(self, tmp_path: Path) -> None:
        (bad,) = check_file(written(tmp_path / "a.jsonl", GOOD, BAD["invalid_utf8"])).bad_lines
        assert bad.detail == f"not UTF-8 (0xff at byte {BAD['invalid_utf8'].index(0xFF) + 1})"

    def test_marks_and_line_ends_are_notes(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\r\n\r\n" + GOOD.replace(b"town", b"lake"))
        result = check_file(path)
        assert (result.rows, result.findings) == (2, [])
        assert result.notes == ["1 byte-order mark, left out", "2 lines with CRLF at the end", "1 blank line, left out"]

    def test_they_go_to_a_side_file_whole(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.jsonl", GOOD, BAD["trailing_comma"], BAD["invalid_utf8"])
        check_file(path, skip_bad=tmp_path / "bad.jsonl")
        first, second = map(json.loads, (tmp_path / "bad.jsonl").read_text(encoding="utf-8").splitlines())
        assert (first["line"], first["rule"], first["text"]) == (2, "trailing_comma", BAD["trailing_comma"].decode())
        assert (second["line"], second["rule"]) == (3, "invalid_utf8")
        assert base64.b64decode(second["base64"]) == BAD["invalid_utf8"]
        assert "extra data" in first["detail"]

    def test_the_side_file_never_overwrites(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.jsonl", GOOD)
        before = path.read_bytes()
        with pytest.raises(ConfigError) as caught:
            check_file(path, skip_bad=path)
        assert caught.value.message == f"{path}: exists already"
        assert caught.value.hint == "bad lines go to a new file; name another or move it"
        assert path.read_bytes() == before

    def test_a_side_file_that_cannot_be_written(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.jsonl", GOOD)
        with pytest.raises(ConfigError, match=r"cannot be written \(No such file or directory\)"):
            check_file(path, skip_bad=tmp_path / "none" / "bad.jsonl")

    def test_of_several_files_they_go_to_one(self, tmp_path: Path) -> None:
        first = written(tmp_path / "a.jsonl", GOOD, BAD["trailing_comma"])
        second = written(tmp_path / "b.jsonl", BAD["single_quotes"], GOOD)
        third = tmp_path / "c.json"
        third.write_bytes(b"[" + GOOD + b"]")
        data = DataConfig(train=[DataSource(path=str(path)) for path in (first, third)], eval=str(second))
        run = RunConfig(model=ModelConfig(name_or_path="m"), data=data, output_dir="runs/x")
        side = tmp_path / "bad.jsonl"
        results = check_sources(run, skip_bad=side)
        entries = list(map(json.loads, side.read_text(encoding="utf-8").splitlines()))
        assert [(one["file"], one["line"], one["rule"]) for one in entries] == [
            (str(first), 2, "trailing_comma"),
            (str(second), 1, "single_quotes"),
        ]
        assert [result.notes for result in results] == [[], ["not read by lines: --skip-bad takes none of it"], []]

    def test_a_file_that_is_not_read_by_lines_has_none(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        path.write_bytes(b"[" + GOOD + b"]")
        with pytest.raises(ConfigError) as caught:
            check_file(path, skip_bad=tmp_path / "bad.jsonl")
        assert caught.value.message == f"--skip-bad: {path} is not read by lines"
        assert caught.value.hint == "convert it to .jsonl, a row a line; or leave --skip-bad out"
        assert not (tmp_path / "bad.jsonl").exists()

    def test_whatever_is_in_a_file_no_row_is_lost(self, tmp_path: Path) -> None:
        """Seeded damage to bytes: rows in = rows kept + rows named, and never a traceback."""
        generator = random.Random(0)
        for _ in range(200):
            lines = [bytearray(GOOD) for _ in range(5)]
            for _ in range(generator.randint(1, 8)):
                line = generator.choice(lines)
                line[generator.randrange(len(line))] = generator.choice(b'{}[]",\\:\xff\x00\tna1\xef ')
            path = written(tmp_path / "a.jsonl", *map(bytes, lines))
            result = check_file(path)
            refused = sum(finding.rule == "untrainable" for finding in result.findings)
            assert result.rows == 5 == sum(result.formats.values()) + refused + len(result.bad_lines)


class TestRows:
    def test_rows_count_from_zero_and_lines_from_one(self, tmp_path: Path) -> None:
        first, second = different(2)
        result = check_file(written(tmp_path / "a.jsonl", first, "", second, "", row("N/A")))
        (finding,) = result.findings
        assert (finding.row, finding.line, finding.rule, finding.detail) == (2, 5, "placeholder_output", "N/A")

    def test_in_a_damaged_file_every_line_holds_the_place_of_a_row(self, tmp_path: Path) -> None:
        result = check_file(written(tmp_path / "a.jsonl", GOOD, "", "{", row("N/A"), "", ""))
        assert said(result) == [(1, "blank_line"), (2, "truncated_json"), (3, "placeholder_output")]
        assert [bad.line for bad in result.bad_lines] == [2, 3]
        assert result.rows == 4

    @pytest.mark.parametrize("name", ["a.json", "a.csv", "a.parquet"])
    def test_other_types_of_file(self, name: str, tmp_path: Path) -> None:
        import pandas

        frame = pandas.DataFrame([*different(3), row("N/A")])
        writers = {".json": frame.to_json, ".csv": frame.to_csv, ".parquet": frame.to_parquet}
        path = tmp_path / name
        writers[path.suffix](path, **({"orient": "records"} if path.suffix == ".json" else {"index": False}))
        result = check_file(path)
        assert said(result)[-1] == (3, "placeholder_output")
        assert "line" not in result.to_json()["findings"][-1]

    def test_a_row_that_cannot_be_trained_on_is_a_finding(self, tmp_path: Path) -> None:
        result = check_file(written(tmp_path / "a.jsonl", GOOD, row(""), {"a": 1}))
        assert [(finding.row, finding.rule, finding.detail) for finding in result.findings] == [
            (1, "untrainable", "no text under output: empty"),
            (2, "untrainable", "an unknown shape"),
        ]

    def test_a_column_that_is_null_by_habit_is_a_note(self, tmp_path: Path) -> None:
        rows = [one | {"input": None} for one in different(3)]
        habit = check_file(written(tmp_path / "a.jsonl", *rows, row()))
        assert (habit.findings, habit.notes) == ([], ["null: input in 3 rows: the usual way here"])
        rare = check_file(written(tmp_path / "b.jsonl", *different(3), row(input=None)))
        assert said(rare) == [(3, "null_field")]

    def test_several_formats_are_a_note(self, tmp_path: Path) -> None:
        result = check_file(written(tmp_path / "a.jsonl", GOOD, {"text": "so it is"}))
        assert result.notes == ["rows of 2 formats (alpaca 1, text 1): training wants one"]

    def test_chunks_and_processes_change_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = different(200)
        lines = [
            *rows[:50],
            "",
            rows[3],
            *rows[50:120],
            row("N/A"),
            "{",
            *rows[120:],
            rows[7] | {"output": f" {rows[7]['output']}"},
        ]
        path = written(tmp_path / "a.jsonl", *lines)
        whole = check_file(path, processes=1)
        shares: list[float] = []
        monkeypatch.setattr(chunks, "CHUNK", 700)
        assert check_file(path, processes=1, progress=shares.append) == whole
        assert check_file(path, processes=2) == whole
        assert shares == sorted(shares) and shares[-1] == 1 and len(shares) > 10
        assert {finding.rule for finding in whole.findings} == {
            "blank_line", "exact_duplicate", "near_duplicate", "placeholder_output", "truncated_json",
        }  # fmt: skip

    def test_lines_that_begin_where_a_chunk_does_are_read_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = written(tmp_path / "a.jsonl", *(row(f"N/A{index}") for index in range(8)), row("N/A "))
        monkeypatch.setattr(chunks, "CHUNK", 2 * (path.stat().st_size // 9))
        result = check_file(path, processes=1, without=["near_duplicate"])
        assert (result.rows, said(result)) == (9, [(8, "placeholder_output")])


class TestCopies:
    LONG = " ".join(random.Random(5).choices(WORDS, k=40))

    def alike(self, tmp_path: Path, *rows: dict) -> list[tuple[int, str, str]]:
        result = check_file(written(tmp_path / "a.jsonl", *different(20), *rows))
        return [(finding.row, finding.rule, finding.detail) for finding in result.findings]

    def test_an_exact_copy_is_named_with_the_first(self, tmp_path: Path) -> None:
        copies = [row(self.LONG), row("north"), row(self.LONG), row(self.LONG, note="seen")]
        assert self.alike(tmp_path, *copies) == [
            (22, "exact_duplicate", "the same as row 20"),
            (23, "exact_duplicate", "the same as row 20"),
        ]

    def test_of_near_copies_the_tidy_one_is_kept(self, tmp_path: Path) -> None:
        ((place, rule, detail),) = self.alike(tmp_path, row(f"{self.LONG} "), row(f"{self.LONG}  indeed"))
        assert (place, rule) == (20, "near_duplicate")
        assert detail.endswith("% of row 21")

    def test_then_the_shorter(self, tmp_path: Path) -> None:
        found = self.alike(tmp_path, row(self.LONG, "Please where is the town? Thanks."), row(self.LONG))
        assert [one[:2] for one in found] == [(20, "near_duplicate")]

    def test_then_the_earlier(self, tmp_path: Path) -> None:
        found = self.alike(tmp_path, row(self.LONG), row(self.LONG.upper()))
        assert [one[:2] for one in found] == [(21, "near_duplicate")]

    def test_two_questions_about_one_text_are_no_copies(self, tmp_path: Path) -> None:
        about = [row(answer, f"{self.LONG} {self.LONG}. What is {answer}?") for answer in ("the river", "a candle")]
        assert self.alike(tmp_path, *about) == []

    def test_rows_that_share_a_system_prompt_are_no_copies(self, tmp_path: Path) -> None:
        shared = " ".join(random.Random(6).choices(WORDS, k=200))
        turns = [("Is the harbour open?", "Yes, it is."), ("Can I see the garden?", "Yes, it is.")]
        rows = [
            {
                "system": shared,
                "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}],
            }
            for asked, answer in turns
        ]
        assert self.alike(tmp_path, *rows) == []

    def test_calls_of_tools_tell_rows_apart(self, tmp_path: Path) -> None:
        def calling(city: str) -> dict:
            call = {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"name": "weather", "arguments": {"city": city}}],
            }
            return {"messages": [{"role": "user", "content": "And there?"}, call]}

        assert self.alike(tmp_path, calling("Oslo"), calling("Rome"), calling("Oslo"))[0][:2] == (22, "exact_duplicate")
        assert len(self.alike(tmp_path, calling("Oslo"), calling("Rome"))) == 0

    def test_similarity_is_estimated_well(self, tmp_path: Path) -> None:
        """Copies with a tenth of their words exchanged at the end are found, with half of them they are not."""
        generator = random.Random(1)
        for share in (0.05, 0.5):
            rows = []
            for _ in range(50):
                words = [f"{generator.choice(WORDS)}{generator.randrange(999)}" for _ in range(100)]
                new = [f"new{generator.randrange(10**6)}" for _ in range(int(share * 100))]
                rows += [row(" ".join(words)), row(" ".join(words[: 100 - len(new)] + new))]
            found = sum(one[1] == "near_duplicate" for one in self.alike(tmp_path, *rows))
            assert found == {0.05: 50, 0.5: 0}[share]


class TestAskedFor:
    def test_rules_can_be_chosen_and_left_out(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.jsonl", row("N/A"), row("N/A"), row("Yes.<|im_end|>"))
        assert said(check_file(path, rules=["template_tokens"])) == [(2, "template_tokens")]
        without = check_file(path, without=["placeholder_output", "template_tokens", "near_duplicate"])
        assert said(without) == [(1, "exact_duplicate")]

    def test_the_length_of_the_model_counts(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.jsonl", row(" ".join(WORDS)))
        assert said(check_file(path, max_length=10)) == [(0, "too_long")]
        assert said(check_file(path)) == []

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            check_file(tmp_path / "none.jsonl")
        assert caught.value.message == f"{tmp_path / 'none.jsonl'}: no such file"
        assert caught.value.hint == "check the path"

    def test_an_empty_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="the file is empty"):
            check_file(written(tmp_path / "a.jsonl"))

    def test_a_file_of_blank_lines(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="holds no rows"):
            check_file(written(tmp_path / "a.jsonl", "", " "))

    def test_a_directory(self, tmp_path: Path) -> None:
        written(tmp_path / "a.jsonl", GOOD)
        with pytest.raises(ConfigError) as caught:
            check_file(tmp_path)
        assert (caught.value.message, caught.value.hint) == (
            f"{tmp_path}: is a directory",
            "name one file, such as a.jsonl",
        )


class TestOutput:
    def test_json_has_the_contract(self, tmp_path: Path) -> None:
        result = check_file(written(tmp_path / "a.jsonl", GOOD, row("N/A"), "{")).to_json()
        assert json.loads(json.dumps(result)) == result
        assert (result["rows"], result["rows_flagged"], result["bad_lines"]) == (3, 2, 1)
        assert result["counts"] == {"placeholder_output": 1, "truncated_json": 1}
        assert result["findings"][0] == {"row": 1, "rule": "placeholder_output", "detail": "N/A", "line": 2}

    def test_the_table_has_counts_examples_and_notes(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.jsonl", *(row(f"[b]{word}[/b]<br/>") for word in WORDS), "{")
        out = StringIO()
        show(check_file(path, without=["near_duplicate"]), Console(file=out, width=200))
        text = out.getvalue()
        assert "12 of 12 rows (100.0%) with a finding" in text
        assert "markup_residue" in text and DESCRIPTIONS["markup_residue"] in text
        assert "row 0 (line 1): [/b]<br/>" in text or "row 0 (line 1): <br/>" in text
        assert "row 2 (line 3)" in text and "row 3 (line 4)" not in text

    def test_a_clean_file_says_so(self, tmp_path: Path) -> None:
        out = StringIO()
        show(check_file(written(tmp_path / "a.jsonl", GOOD)), Console(file=out, width=400))
        assert out.getvalue() == f"{tmp_path / 'a.jsonl'}: 1 row, nothing found\n"


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "finetune.cli", "data", "check", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_the_command_on_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"instruction": "Say it.", "input": "", "output": answer} for answer in ("A plain answer.", "N/A")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = command(path, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert found["rows"] == 2
    assert [(finding["row"], finding["rule"]) for finding in found["findings"]] == [(1, "placeholder_output")]
    shown = command(path, "--without", "placeholder_output")
    assert shown.returncode == 0 and "2 rows, nothing found" in shown.stdout
    path.write_text(path.read_text(encoding="utf-8") + '{"instruction": \n', encoding="utf-8")
    broken = command(path, "--skip-bad", tmp_path / "bad.jsonl", "--json")
    assert broken.returncode == 4, "a run would refuse it"
    assert json.loads(broken.stdout)["rows"] == 3 and (tmp_path / "bad.jsonl").is_file()


def test_the_command_on_a_configuration_checks_every_source_once(
    config_file: Path, rows_file: Path, held_out_file: Path
) -> None:
    done = command(config_file, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert found["rows"] == 24 and [one["file"] for one in found["files"]] == [str(rows_file), str(held_out_file)]
    one = json.loads(command(config_file, f"data.eval={rows_file}", "--json").stdout)
    assert one["rows"] == 12 and one["file"] == str(rows_file), "train and eval are one file here"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["rows.jsonl", "lora.r=8"], "lora.r=8: rows.jsonl is a file of rows, which has no keys"),
        (["rows.jsonl", "--rule", "mojibak"], "unknown rule 'mojibak'"),
        (
            ["rows.jsonl", "--show-mask"],
            "--show-mask: rows.jsonl is a file of rows, and a mask needs a model's tokenizer",
        ),
        (["config.yaml", "--show-mask", "--json"], "--show-mask is for people, --json for programs"),
    ],
)
def test_the_command_s_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list, words: str) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"text": "one"}\n', encoding="utf-8")
    done = command(*arguments)
    assert done.returncode == 2
    assert words in done.stderr and "hint:" in done.stderr and "Traceback" not in done.stderr
