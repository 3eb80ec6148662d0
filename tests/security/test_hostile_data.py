"""Files of rows from strangers: refused in words before they fill the memory, and never waited for."""

from __future__ import annotations

import gzip
import json
import os
import resource
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from finetune.data import file_limits, parquet_files
from finetune.data.file_limits import CELLS, COLUMNS, LONGEST_LINE, WHOLE
from finetune.data.files import read_file
from finetune.errors import DataError, FinetuneError

CONFIGURATION, BAD_DATA = 2, 4


@pytest.fixture
def fault(tmp_path: Path):
    """What is said of a file, which is refused within 300 MB."""

    def _fault(path: Path) -> str:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(FinetuneError) as caught:
            read_file(path, path.name)
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 300e6
        assert caught.value.hint
        assert len(caught.value.message) < 2_000
        return caught.value.message

    return _fault


def _written(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def _sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


# JSON


@pytest.mark.parametrize("name", ["deep.jsonl", "deep.json"])
@pytest.mark.parametrize("depth", [100_000, 5_000, 990])
def test_json_nested_deeply(fault, tmp_path, name, depth):
    row = '{"text": ' + "[" * depth + "]" * depth + "}"
    path = _written(tmp_path / name, row if name.endswith("l") else f"[{row}]")
    if depth < 1_000:  # the parser follows it; what reads the row then must not fail on it
        try:
            read_file(path, name)
        except DataError as error:
            assert "nested too deeply" in error.message
    else:
        assert "nested too deeply" in fault(path)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("9" * 100_000, f"{'9' * 20} is beyond the largest number"),
        ("1e999", "1e999 is beyond the largest number"),
        ("9" * 400, f"{'9' * 20} is beyond the largest number"),
        ("-1e999", "-1e999"),
    ],
    ids=["digits", "infinity", "integer", "minus infinity"],
)
def test_numbers_that_are_none(fault, command, tmp_path, number, words):
    row = f'{{"text": "a", "score": {number}}}'
    assert f"line 1: {words}" in fault(_written(tmp_path / "rows.jsonl", row))
    assert words in fault(_written(tmp_path / "rows.json", f"[{row}]"))
    code, out, _ = command("data", "check", tmp_path / "rows.jsonl", "--json")
    assert code == BAD_DATA
    assert json.loads(out)["findings"][0]["detail"].startswith(words)


def test_a_line_of_a_gigabyte(fault, refused, monkeypatch, tmp_path):
    path = _sparse(tmp_path / "long.jsonl", 2**30)
    assert f"the line at byte 0 is longer than {LONGEST_LINE:,} bytes" in fault(path)
    monkeypatch.setattr(file_limits, "LONGEST_LINE", 2**20)  # each process of a check reads as much
    _sparse(path, 2**24)
    words = "is longer than 1,048,576 bytes"
    refused(BAD_DATA, words, "data", "check", path)


def test_a_document_too_large_to_be_read_whole(fault, tmp_path):
    for name in ("large.json", "large.csv"):
        words = f"{name}: {WHOLE + 1:,} bytes, of which {WHOLE:,} at most are read whole"
        assert fault(_sparse(tmp_path / name, WHOLE + 1)) == words


# CSV


def test_a_csv_file_of_a_million_columns(fault, tmp_path):
    header = ",".join(f"c{n}" for n in range(10**6))
    words = f"1,000,000 columns, more than {COLUMNS:,}"
    assert words in fault(_written(tmp_path / "wide.csv", f"{header}\n{header}\n"))
    assert words in fault(_written(tmp_path / "wide.csv", f"a,b\n{header}\n"))


def test_a_csv_file_of_too_many_cells(fault, monkeypatch, tmp_path):
    monkeypatch.setattr(file_limits, "CELLS", 100)
    assert "rows.csv: more than 100 cells" in fault(_written(tmp_path / "rows.csv", "a,b\n" + "1,2\n" * 60))


def test_a_csv_field_that_does_not_close(fault, tmp_path):
    assert "cannot be read: unexpected end of data" in fault(_written(tmp_path / "open.csv", 'a,b\n"' + "x\n" * 10**6))


# Parquet


def test_a_parquet_file_that_decompresses_hugely(fault, monkeypatch, tmp_path):
    monkeypatch.setattr(parquet_files, "WHOLE", 2**24)
    path = tmp_path / "bomb.parquet"
    rows = pyarrow.table({"text": pyarrow.array(["x" * 2**16] * 4_000)})  # 256 MB, stored once
    pyarrow.parquet.write_table(rows, path, compression="zstd")
    del rows
    assert path.stat().st_size < 10_000
    assert fault(path) == f"bomb.parquet: more than {2**24:,} bytes once decompressed"


def test_a_parquet_file_of_rows_that_take_no_room(fault, tmp_path):
    path = tmp_path / "nulls.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.nulls(CELLS + 1)}), path)
    assert path.stat().st_size < 100_000
    assert fault(path) == f"nulls.parquet: more than {CELLS:,} cells in 1 columns"


def test_a_parquet_file_whose_dictionary_is_named_often(fault, monkeypatch, tmp_path):
    """One text of a megabyte, in each of ten thousand rows: Arrow holds it once, rows would hold it each."""
    monkeypatch.setattr(parquet_files, "WHOLE", 2**26)
    path = tmp_path / "dictionary.parquet"
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 10_000, pyarrow.int32()), ["x" * 2**20])
    for column in (texts, pyarrow.ListArray.from_arrays([0, 5_000, 10_000], texts)):
        pyarrow.parquet.write_table(pyarrow.table({"text": column}), path, compression="zstd")
        assert path.stat().st_size < 10_000
        assert fault(path) == f"dictionary.parquet: more than {2**26:,} bytes once decompressed"


@pytest.mark.parametrize("kind", [pyarrow.null(), pyarrow.bool_()])
def test_a_parquet_file_of_lists_that_take_no_room(fault, monkeypatch, tmp_path, kind):
    monkeypatch.setattr(parquet_files, "CELLS", 2**18)
    path = tmp_path / "lists.parquet"
    lists = pyarrow.ListArray.from_arrays([0, 2**19], pyarrow.nulls(2**19, kind))
    pyarrow.parquet.write_table(pyarrow.table({"text": lists}), path)
    assert path.stat().st_size < 10_000
    assert fault(path) == f"lists.parquet: more than {2**18:,} values, those in lists counted"


def test_a_parquet_file_that_asks_for_too_much_at_once(monkeypatch, tmp_path):
    """64 rows of 32 MiB that are stored once, and decompressed as one batch: more than Arrow's allocator sets aside."""
    monkeypatch.setattr(parquet_files, "MEMORY", 2**27)
    path = tmp_path / "page.parquet"
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 64, pyarrow.int32()), ["x" * 2**25])
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, compression="zstd", store_schema=False)
    with pytest.raises(DataError) as caught:
        read_file(path, path.name)
    assert caught.value.message == f"page.parquet: asks for more than {2**27:,} bytes to be decompressed"
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def test_a_parquet_file_of_what_are_no_rows(tmp_path):
    path = tmp_path / "types.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([1, 2], pyarrow.duration("s"))}), path)
    assert [row["text"].seconds for _, row in read_file(path, "types")] == [1, 2]
    views = pyarrow.array([["a"]], pyarrow.list_view(pyarrow.string()))
    with pytest.raises(DataError, match="types: a column holds list_view"):
        parquet_files._held(views, "types")


def test_a_parquet_file_that_is_none(fault, tmp_path):
    for content in ("PAR1" + "\0" * 100 + "\uffff\0PAR1", "PAR1PAR1", "PAR1"):
        assert "not a readable Parquet file" in fault(_written(tmp_path / "bad.parquet", content))


# Files that are none, and archives


def test_archives_are_not_opened(fault, tmp_path):
    with gzip.open(tmp_path / "rows.jsonl.gz", "wb") as file:
        file.write(bytes(2**20))
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.writestr("../../outside.jsonl", "x")
    (tmp_path / "rows.jsonl.zst").touch()
    for name in ("rows.jsonl.gz", "rows.zip", "rows.jsonl.zst"):
        assert "unknown file type" in fault(tmp_path / name)


@pytest.mark.parametrize("arguments", [("data", "check"), ("data", "curate"), ("data", "map")], ids=" ".join)
def test_a_pipe_is_not_waited_for(refused, tmp_path, arguments):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    out = [] if arguments[1] == "check" else ["--out", tmp_path / ("out.html" if arguments[1] == "map" else "out")]
    for name, kind in (("pipe.jsonl", "a pipe"), ("zero.jsonl", "a device")):
        words = "no such file" if arguments[1] == "curate" else f"cannot be read (it is {kind})"
        refused(CONFIGURATION, words, *arguments, tmp_path / name, *out)


def test_a_pipe_is_not_trained_on(refused, config_file, tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    override = f"data.train={tmp_path / 'pipe.jsonl'}"
    refused(CONFIGURATION, "cannot be read (it is a pipe)", "train", "--dry-run", config_file, override)
