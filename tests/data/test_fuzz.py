"""Whatever a file holds: never a traceback, and every row is kept or named. Some 6,000 cases, the same in every run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.data.check import check_file, check_rows
from finetune.data.chunks import Asked
from finetune.data.files import read_file
from finetune.data.formats import to_examples
from finetune.data.lines import LINE_FAULTS, BadLine, Ends, GoodLine, read_lines
from finetune.data.rows import Row
from finetune.data.rules.registry import chosen
from finetune.errors import FinetuneError


def cases(number: int) -> settings:
    """A folder may serve all cases of a test: each writes its file anew."""
    return settings(
        max_examples=number, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    )


TEXTS = st.one_of(
    st.sampled_from(
        ["", " ", "N/A", "https://example.org", "Yes. " * 12, "<|im_end|>", "Ã©tÃ©", "<p>x</p>", "\x00", "a\u2028b"]
    ),
    st.text(max_size=30),
)
ATOMS = st.one_of(TEXTS, st.none(), st.booleans(), st.integers(-5, 10**25), st.floats(allow_nan=False))
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["system", "user", "assistant", "tool", "function", "human", "", None, 3]),
            "from": st.sampled_from(["system", "human", "gpt", "observation", "function_call", "?", None]),
            "content": TEXTS | VALUES,
            "value": TEXTS | VALUES,
            "weight": ATOMS,
            "tool_calls": VALUES,
        },
    )
    | VALUES,
    max_size=4,
)
COLUMNS = {
    **dict.fromkeys(("messages", "conversations"), TURNS),
    **dict.fromkeys(("prompt", "completion"), TEXTS | TURNS),
    **dict.fromkeys(("instruction", "input", "output", "text", "system"), TEXTS | VALUES),
    **dict.fromkeys(("question", "answer", "chosen", "rejected"), TEXTS),
    **dict.fromkeys(("tools", "history", "instances"), VALUES),
}
ROWS = st.dictionaries(st.sampled_from(sorted(COLUMNS)), st.none(), min_size=1, max_size=4).flatmap(
    lambda keys: st.fixed_dictionaries({key: COLUMNS[key] | st.none() for key in keys})
) | st.dictionaries(st.text(max_size=6), VALUES, max_size=3)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A line of a .jsonl file without its end: a row, a row that was damaged, or any bytes."""
    line = json.dumps(draw(ROWS), ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    how = draw(st.sampled_from(["whole", "whole", "cut", "put in", "left out", "bytes", "blank"]))
    at = draw(st.integers(0, len(line)))
    if how == "cut":
        line = line[:at]
    elif how == "put in":
        line = (
            line[:at]
            + draw(st.sampled_from([b"\xff", b"\xef\xbb\xbf", b"\x00", b",", b"'", b"}", b"NaN", b"{}", b"\\"]))
            + line[at:]
        )
    elif how == "left out":
        line = line[:at] + line[at + 1 :]
    elif how == "bytes":
        line = draw(st.binary(max_size=20))
    elif how == "blank":
        line = draw(st.sampled_from([b"", b"  ", b"\t"]))
    return line.replace(b"\n", b" ").replace(b"\r", b" ")


FILES = st.tuples(st.lists(lines(), max_size=6), st.sampled_from([b"\n", b"\r\n"])).map(
    lambda parts: parts[1].join(parts[0])
)


@cases(1500)
@given(FILES)
def test_every_line_is_a_row_or_named(content: bytes) -> None:
    ends = Ends()
    split = content.split(b"\n")
    read = list(read_lines(iter(split), ends))
    numbers = sorted([line.line for line in read] + ends.blank)
    assert numbers == list(range(1, len(split) + 1))
    for line in read:
        if isinstance(line, BadLine):
            assert line.rule in LINE_FAULTS and line.detail
            assert line.raw == split[line.line - 1].rstrip(b"\r\n")
        else:
            assert isinstance(line, GoodLine)
            assert line.value == json.loads(split[line.line - 1].decode("utf-8-sig"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path


@cases(700)
@given(content=FILES)
def test_training_reads_a_file_whole_or_names_its_faults(content: bytes, folder: Path) -> None:
    path = folder / "rows.jsonl"
    path.write_bytes(content)
    good = [line for line in read_lines(content.split(b"\n"), Ends()) if isinstance(line, GoodLine)]
    bad = [line for line in read_lines(content.split(b"\n"), Ends()) if isinstance(line, BadLine)]
    try:
        rows = read_file(path, "rows.jsonl")
    except FinetuneError as error:
        assert error.message and error.hint
        assert bad or not good
        assert all(f"line {line.line}: " in error.message for line in bad[:3])
    else:
        assert not bad
        assert [value for _, value in rows] == [line.value for line in good]


@cases(500)
@given(content=FILES)
def test_a_check_counts_every_line(content: bytes, folder: Path) -> None:
    path, side = folder / "rows.jsonl", folder / "bad.jsonl"
    path.write_bytes(content)
    side.unlink(missing_ok=True)
    try:
        result = check_file(path, skip_bad=side, processes=1)
    except FinetuneError as error:
        assert error.message and error.hint
        assert not content.strip()
        return
    unreadable = {finding.row for finding in result.findings if finding.rule == "untrainable"}
    assert result.rows == sum(result.formats.values()) + len(unreadable) + len(result.bad_lines)
    named = {finding.line for finding in result.findings}
    assert {bad.line for bad in result.bad_lines} <= named
    written = side.read_text(encoding="utf-8").split("\n")[:-1] if side.exists() else []
    assert [json.loads(line)["line"] for line in written] == [bad.line for bad in result.bad_lines]
    json.dumps(result.to_json())


@cases(1500)
@given(st.lists(ROWS, min_size=1, max_size=4))
def test_rows_of_any_shape_are_checked(values: list[dict[str, Any]]) -> None:
    result = check_rows(values, "rows", Asked(chosen(None, ()), 64))
    unreadable = {finding.row for finding in result.findings if finding.rule in ("untrainable", *UNTRAINABLE)}
    assert result.rows == len(values) == sum(result.formats.values()) + len(unreadable)
    assert all(0 <= finding.row < len(values) and isinstance(finding.detail, str) for finding in result.findings)


UNTRAINABLE: tuple[str, ...] = ()
"""Rules under which a row is refused besides."""


@cases(1500)
@given(st.lists(ROWS, min_size=1, max_size=4))
def test_rows_become_examples_or_are_named(values: list[dict[str, Any]]) -> None:
    rows = [Row(value, f"rows.jsonl line {index + 1}", index) for index, value in enumerate(values)]
    try:
        examples, _ = to_examples(rows)
    except FinetuneError as error:
        assert error.message and error.hint
        assert "line" in error.message
    else:
        kept = {example.where.split(" instance")[0] for example in examples}
        assert kept == {row.where for row in rows}


CELLS = st.lists(st.lists(TEXTS, min_size=1, max_size=3), max_size=4)


@cases(500)
@given(cells=CELLS, damage=st.binary(max_size=3), at=st.integers(0, 60))
def test_tables_are_read_or_refused(cells: list[list[str]], damage: bytes, at: int, folder: Path) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(cells)
    raw = text.getvalue().encode("utf-8", "replace")
    path = folder / "rows.csv"
    path.write_bytes(raw[:at] + damage + raw[at:])
    try:
        rows = read_file(path, "rows.csv")
    except FinetuneError as error:
        assert error.message and error.hint
    else:
        assert len({tuple(row) for _, row in rows}) == 1  # the header's names, in every row
        if not damage:
            filled = [row for row in cells if any(cell.strip() for cell in row)]
            assert [list(row.values()) for _, row in rows] == filled[1:]


@cases(500)
@given(
    document=st.lists(ROWS, max_size=3) | VALUES | ROWS,
    damage=st.sampled_from([b"", b"", b",", b"\xff", b"]", b"NaN"]),
    at=st.integers(0, 40),
)
def test_documents_are_read_or_refused(document: Any, damage: bytes, at: int, folder: Path) -> None:
    raw = json.dumps(document).encode()
    path = folder / "rows.json"
    path.write_bytes(raw[:at] + damage + raw[at:])
    try:
        rows = read_file(path, "rows.json")
    except FinetuneError as error:
        assert error.message and error.hint
    else:
        assert rows and all(isinstance(value, dict) for _, value in rows)
        if not damage and isinstance(document, list):
            assert [value for _, value in rows] == document
