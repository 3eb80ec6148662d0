"""Reading rows: every file type, the hub's loader, weights, and the words of each refusal."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from finetune.config import DataSource
from finetune.data.formats import to_examples
from finetune.data.hub import PATIENCE, read_hub
from finetune.data.rows import read_rows
from finetune.errors import ConfigError, DataError, FinetuneError

GOOD = [{"prompt": "2+2?", "completion": "4"}, {"prompt": "capital of Peru?", "completion": "Lima"}]
LINES = "\n".join(json.dumps(row) for row in GOOD) + "\n"


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name: str, content: str | bytes) -> str:
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def read(source, role="train", seed=0):
    return read_rows(source, role=role, seed=seed)


def refusal(source, kind: type[FinetuneError], role="train") -> FinetuneError:
    """The error of reading `source`: exactly of this kind, and with a hint."""
    with pytest.raises(kind) as caught:
        read(source, role)
    assert type(caught.value) is kind
    assert caught.value.hint
    return caught.value


class TestFileTypes:
    def test_jsonl_rows_have_their_line_and_index(self):
        rows = read(write("train.jsonl", LINES))
        assert [row.value for row in rows] == GOOD
        assert [row.where for row in rows] == ["train.jsonl line 1", "train.jsonl line 2"]
        assert [row.index for row in rows] == [0, 1]

    def test_jsonl_takes_byte_order_mark_crlf_and_blank_lines(self):
        text = LINES.replace("\n", "\r\n").replace("\r\n", "\r\n\r\n \r\n", 1)
        rows = read(write("windows.ndjson", b"\xef\xbb\xbf" + text.encode()))
        assert [row.value for row in rows] == GOOD
        assert [row.where for row in rows] == ["windows.ndjson line 1", "windows.ndjson line 4"]
        assert [row.index for row in rows] == [0, 1]

    @pytest.mark.parametrize(
        "document",
        [
            GOOD,
            {"data": GOOD},
            {"version": 2, "rows": GOOD, "tags": ["a"]},
            {"prompt": [row["prompt"] for row in GOOD], "completion": [row["completion"] for row in GOOD]},
        ],
        ids=["list", "object around a list", "list beside other keys", "columns"],
    )
    def test_json_layouts(self, document):
        rows = read(write("train.json", "\ufeff" + json.dumps(document, indent=1).replace("\n", "\r\n")))
        assert [row.value for row in rows] == GOOD
        assert [row.where for row in rows] == ["train.json row 1", "train.json row 2"]

    def test_json_of_one_conversation_is_one_row(self):
        document = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}
        assert [row.value for row in read(write("one.json", json.dumps(document)))] == [document]

    def test_csv_with_quotes_line_breaks_and_long_fields(self):
        long = "x" * 200_000  # beyond the csv module's default limit
        text = f'\ufeffprompt,completion\r\n"a, ""b""\r\nc",4\r\n\r\n{long},5\r\n,\r\n'
        rows = read(write("rows.csv", text))
        assert [row.value for row in rows] == [
            {"prompt": 'a, "b"\r\nc', "completion": "4"},
            {"prompt": long, "completion": "5"},
        ]
        assert [row.where for row in rows] == ["rows.csv row 1", "rows.csv row 2"]

    def test_parquet_drops_the_nulls_that_arrow_adds_to_structs(self):
        import pyarrow as pa
        import pyarrow.parquet as pq

        turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello", "weight": 1}]
        pq.write_table(pa.Table.from_pylist([{"messages": turns, "note": None}]), "chat.parquet")
        (row,) = read("chat.parquet")
        assert row.value == {"messages": turns, "note": None}
        assert row.where == "chat.parquet row 1"

    def test_suffix_in_capitals_and_home_directory(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        write("TRAIN.JSONL", LINES)
        assert read("~/TRAIN.JSONL")[0].where == "~/TRAIN.JSONL line 1"


class TestPathFaults:
    @pytest.mark.parametrize(
        "name", ["train.jsonl", "data/notes.txt", "./rows", "/nowhere/rows", "~/rows", "a/b/c", "a b"]
    )
    def test_missing_file(self, name, tmp_path):
        error = refusal(name, ConfigError)
        assert error.message == f"{name}: no such file"
        assert error.hint == f"check data.train; paths start at the working directory, {tmp_path}"
        assert error.exit_code == 2

    def test_directory(self):
        Path("set").mkdir()
        assert refusal("set", ConfigError).hint == "name one file"
        write("set/b.jsonl", LINES)
        write("set/a.csv", "a\n1\n")
        error = refusal("set", ConfigError)
        assert (error.message, error.hint) == ("set: is a directory", "name one file, such as a.csv, b.jsonl")

    @pytest.mark.parametrize(("name", "suffix"), [("rows.xlsx", "'.xlsx'"), ("rows", "''")])
    def test_unknown_type(self, name, suffix):
        error = refusal(write(name, "x"), ConfigError)
        assert error.message == f"{name}: unknown file type {suffix}"
        assert error.hint == "known types: .jsonl, .ndjson, .json, .csv, .parquet"

    def test_split_of_a_file(self):
        error = refusal([DataSource(path=write("rows.jsonl", LINES), split="test")], ConfigError)
        assert error.message == "rows.jsonl: is a file, which has no split 'test'"

    def test_unreadable_file(self):
        with socket.socket(socket.AF_UNIX) as server:  # a file that not even root can open
            server.bind("locked.jsonl")
        error = refusal("locked.jsonl", ConfigError)
        assert error.message.startswith("locked.jsonl: cannot be read (")

    @pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
    def test_empty_file(self, suffix):
        error = refusal(write(f"rows.{suffix}", ""), DataError)
        assert error.message == f"rows.{suffix}: the file is empty"
        assert error.exit_code == 4

    @pytest.mark.parametrize(
        ("name", "content"),
        [("r.jsonl", "\n \r\n\n"), ("r.json", " \n"), ("r.json", "[]"), ("r.csv", "\n\n"), ("r.csv", "a,b\n\n")],
    )
    def test_file_without_rows(self, name, content):
        assert refusal(write(name, content), DataError).message == f"{name}: holds no rows"

    def test_no_sources(self):
        assert refusal([], ConfigError).message == "data.train: the list of sources is empty"


class TestContentFaults:
    def test_every_faulty_line_of_jsonl_is_named(self):
        good = json.dumps(GOOD[0]).encode()
        faulty = [
            good[:-2],
            good + b",",
            b"",
            b'{"score": NaN}',
            b'{"a": 1, "a": 2}',
            b"[1]",
            b'{"a": "\xff"}',
            rb'{"a": "\ud83d"}',
            b"[" * 100_000,
        ]
        error = refusal(write("bad.jsonl", b"\n".join([good, *faulty, good, b"", b""])), DataError)
        assert error.message.splitlines() == [
            "bad.jsonl: 9 faulty lines",
            "  line 2: unterminated string (column 34)",
            "  line 3: extra data (column 38)",
            "  line 4: blank",
            "  line 5: NaN is not JSON",
            "  line 6: the key 'a' stands twice in one object",
            "  line 7: a list, not an object",
            "  line 8: not UTF-8 (0xff at byte 8)",
            "  line 9: \\ud83d is half a surrogate pair, which no text can hold",
            "  line 10: nested too deeply",
        ]
        assert error.hint == "each line holds one whole JSON object, in UTF-8"

    def test_the_first_ten_faulty_lines_are_named_and_the_rest_counted(self):
        error = refusal(write("bad.jsonl", LINES + "{\n" * 13), DataError)
        lines = error.message.splitlines()
        assert lines[0] == "bad.jsonl: 13 faulty lines"
        assert lines[1].startswith("  line 3: ")
        assert lines[10].startswith("  line 12: ")
        assert lines[11:] == ["  and 3 more"]

    def test_json_under_the_name_of_jsonl(self):
        error = refusal(write("bad.jsonl", json.dumps(GOOD, indent=2)), DataError)
        assert error.hint.endswith("a file that is one JSON document is named .json")

    def test_jsonl_under_the_name_of_json(self):
        error = refusal(write("bad.json", LINES), DataError)
        assert error.message == "bad.json line 2: extra data (column 1)"
        assert error.hint.endswith("a file of one object a line is named .jsonl")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('[{"a": 1},\n {"b" 2}]', "bad.json line 2: expecting ':' delimiter (column 7)"),
            ('"rows"', "bad.json: text, not a list of objects"),
            ("3", "bad.json: a number, not a list of objects"),
            ('{"a": 1, "b": [1]}', "bad.json: an object, not a list of objects (its keys: a, b)"),
            ('{"a": [1], "b": [1, 2]}', "bad.json: an object, not a list of objects (its keys: a, b)"),
            (
                '[{"a": 1}, 2, null]',
                "bad.json: 2 faulty rows\n  row 2: a number, not an object\n  row 3: null, not an object",
            ),
            ('[{"a": Infinity}]', "bad.json: Infinity is not JSON"),
            (b'[{"a": 1},\n{"b": "\xe9"}]', "bad.json: 1 faulty line\n  line 2: not UTF-8 (0xe9 at byte 8)"),
        ],
    )
    def test_json(self, content, message):
        assert refusal(write("bad.json", content), DataError).message == message

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                "a,,c\n1,2,3\n",
                "bad.csv: the first line is no header, a name in it is empty or stands twice: ['a', '', 'c']",
            ),
            ("a,a\n1,2\n", "bad.csv: the first line is no header, a name in it is empty or stands twice: ['a', 'a']"),
            (
                'a,b\n1,2\n\n"3\n3"\n4,5,6\n',
                "bad.csv: 2 faulty rows\n"
                "  row 2 (line 4): 1 field, the header has 2\n"
                "  row 3 (line 6): 3 fields, the header has 2",
            ),
            ('a,b\n1,2\n3,"4\n5,6\n', "bad.csv: the row that starts at line 3 cannot be read: unexpected end of data"),
            (b"a,b\n1,2\n3,\x80\n", "bad.csv: 1 faulty line\n  line 3: not UTF-8 (0x80 at byte 3)"),
        ],
    )
    def test_csv(self, content, message):
        assert refusal(write("bad.csv", content), DataError).message == message

    def test_csv_without_a_header_shows_in_its_keys(self):
        rows = read(write("bad.csv", "How are you?,greeting\nBye!,farewell\n"))
        with pytest.raises(DataError) as caught:
            to_examples(rows)
        assert caught.value.message == "bad.csv row 1: an unknown shape (keys: How are you?, greeting)"

    def test_parquet(self):
        error = refusal(write("bad.parquet", "PAR1 and nothing else"), DataError)
        assert error.message.startswith("bad.parquet: not a readable Parquet file (")


class TestWeights:
    @pytest.fixture
    def numbers(self):
        return write("numbers.jsonl", "".join(f'{{"n": {n}}}\n' for n in range(10)))

    def take(self, path, weight, seed=0):
        return [row.value["n"] for row in read([DataSource(path=path, weight=weight)], seed=seed)]

    def test_whole_copies(self, numbers):
        assert self.take(numbers, 1) == list(range(10))
        assert self.take(numbers, 2) == [*range(10), *range(10)]

    def test_a_part_is_seeded_and_keeps_the_order(self, numbers):
        half = self.take(numbers, 0.5)
        assert len(half) == 5
        assert half == sorted(set(half))
        assert half == self.take(numbers, 0.5)
        assert half != self.take(numbers, 0.5, seed=1)

    def test_copies_and_a_part(self, numbers):
        taken = self.take(numbers, 2.3)
        assert taken[:20] == [*range(10), *range(10)]
        assert len(taken[20:]) == 3

    def test_sources_stand_in_the_order_given_with_indices_of_their_own(self, numbers):
        rows = read([DataSource(path=write("a.jsonl", LINES)), DataSource(path=numbers)])
        assert [row.where for row in rows[:3]] == ["a.jsonl line 1", "a.jsonl line 2", "numbers.jsonl line 1"]
        assert rows[2].index == 0

    def test_a_weight_too_small_for_one_row(self, numbers):
        error = refusal([DataSource(path=numbers, weight=0.01)], ConfigError)
        assert error.message == "numbers.jsonl: weight 0.01 takes none of its 10 rows"


def _connect(monkeypatch, endpoint: str) -> None:
    """Points `datasets` and `huggingface_hub` at a hub of our own, also where HF_HUB_OFFLINE is set."""
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
    for config in (datasets.config, constants):
        monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)


class _Refusal(BaseHTTPRequestHandler):
    """A hub that knows of every data set and hands none of them out."""

    code = ""

    def do_GET(self):
        self.send_response(403 if self.code == "GatedRepo" else 404)
        self.send_header("X-Error-Code", self.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    """Starts a hub on this machine that answers everything with one error code."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusal)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    _connect(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield lambda code: monkeypatch.setattr(_Refusal, "code", code)
    server.shutdown()
    server.server_close()


class TestHub:
    """The real loader of `datasets`: on a folder in place of a repository, and on its cache without a network."""

    @pytest.fixture(autouse=True)
    def _cache_of_its_own(self, tmp_path, monkeypatch):
        import datasets

        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)

    @pytest.fixture
    def repository(self, tmp_path):
        folder = tmp_path / "set"
        folder.mkdir()
        write("set/train.jsonl", LINES)
        write("set/test.jsonl", LINES.splitlines()[0])
        return str(folder)

    def test_default_splits(self, repository):
        split, rows = read_hub(repository, None, "train")
        assert (split, rows) == ("train", [("row 1", GOOD[0]), ("row 2", GOOD[1])])
        assert read_hub(repository, None, "eval") == ("test", [("row 1", GOOD[0])])

    def test_validation_comes_before_test(self, repository):
        write("set/validation.jsonl", LINES)
        assert read_hub(repository, None, "eval")[0] == "validation"

    def test_a_missing_split_names_those_there_are(self, repository):
        with pytest.raises(ConfigError) as caught:
            read_hub(repository, "dev", "eval")
        assert caught.value.message == f"{repository}: no split dev; it has train, test"
        assert caught.value.hint == "name one of them: data.eval as a list of sources with path and split"

    def test_a_configuration_is_named_after_a_colon(self, repository):
        configs = [{"config_name": c, "data_files": f"{c}.jsonl"} for c in ("train", "test")]
        write("set/README.md", f"---\nconfigs: {json.dumps(configs)}\n---\n")
        assert len(read_hub(f"{repository}:train", None, "train")[1]) == 2
        assert len(read_hub(f"{repository}:test", None, "train")[1]) == 1
        with pytest.raises(ConfigError) as caught:
            read_hub(repository, None, "train")
        assert "['train', 'test']" in caught.value.message
        assert caught.value.hint == f"name the configuration after a colon: {repository}:NAME"

    def test_data_that_cannot_be_parsed(self, repository):
        write("set/train.jsonl", "{]")
        with pytest.raises(DataError) as caught:
            read_hub(repository, None, "train")
        assert caught.value.message.startswith(f"{repository}: its files cannot be read: ")
        assert caught.value.hint

    def test_a_cached_set_needs_no_hub(self, repository, tmp_path):
        read_hub(repository, None, "train")
        shutil.move(tmp_path / "cache" / "set", tmp_path / "cache" / "org___set")
        rows = read([DataSource(path="org/set", split="test")])
        assert [(row.where, row.value, row.index) for row in rows] == [("org/set[test] row 1", GOOD[0], 0)]

    @pytest.mark.parametrize("name", ["org/OpenSet-2.5", "imdb", "org/set:main"])
    def test_offline(self, name):
        error = refusal(name, ConfigError)
        assert error.message == f"{name}: no such file, and the hub cannot be reached for a data set of that name"
        assert error.hint == "check the spelling; or connect (unset HF_HUB_OFFLINE); or name a file"

    def test_an_empty_split(self, repository):
        shutil.rmtree(repository)
        Path(repository).mkdir()
        write("set/train.csv", "text\n")
        with pytest.raises(ConfigError) as caught:
            read_hub(repository, None, "train")
        assert 'Instruction "train" corresponds to no data' in caught.value.message

    @pytest.mark.parametrize(
        ("code", "message", "hint"),
        [
            ("GatedRepo", "is a gated dataset on the Hub", "accept its terms on the hub, then log in: `hf auth login`"),
            ("RepoNotFound", "doesn't exist on the Hub or cannot be accessed", "check the spelling, or name a file"),
        ],
    )
    def test_the_hub_refuses(self, code, message, hint, hub):
        hub(code)
        error = refusal("org/set", ConfigError)
        assert error.message.startswith("org/set: ")
        assert message in error.message
        assert error.hint == hint

    def test_a_dead_network_costs_seconds(self, monkeypatch):
        import datasets

        _connect(monkeypatch, "http://127.0.0.1:9")
        start = time.monotonic()
        assert "the hub cannot be reached" in refusal("org/set", ConfigError).message
        assert time.monotonic() - start < PATIENCE + 2
        assert datasets.config.HF_HUB_OFFLINE is False
