"""What a study leaves behind, and how `finetune lab` runs one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checked_page import Page
from typer.testing import CliRunner

from finetune.cli.machine import LABS
from finetune.cli.main import app
from finetune.errors import ConfigError
from finetune.study import Plot, Study, Table, markdown_table, shown


def run() -> Study:
    """A small study, run as any other."""
    table = Table("Squares", ["x", "x²"], [["one", 1], ["thousands", 1_234_567], ["pi", 3.14159265], ["none", None]])
    plot = Plot("line", "A line", lambda figure: figure.subplots().plot([0, 1], [0, 1]))
    return Study("squares", "What are squares?", {"seed": 1}, {"largest": 1_234_567}, [table], ["They grow."], [plot])


def test_what_is_written(tmp_path: Path) -> None:
    written = run().write(tmp_path / "new" / "folder")
    assert [path.name for path in written] == ["squares.json", "squares.md", "squares-line.svg"]
    assert json.loads(written[0].read_text())["numbers"] == {"largest": 1_234_567}
    page = written[1].read_text()
    assert "| thousands | 1,234,567 |" in page and "![A line](squares-line.svg)" in page and "- They grow." in page
    assert written[2].read_text() == run().plots[0].svg(), "the same plot gives the same bytes"


def test_numbers_as_tables_show_them() -> None:
    values = (0.000123456, 12345.678, 12345, True, None, "text")
    assert [shown(value) for value in values] == ["0.0001235", "12,346", "12,345", "True", "–", "text"]
    assert markdown_table(Table("", ["a", "b"], [["x", 1]])).splitlines()[1] == "| --- | ---: |"


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LABS, "squares", __name__)
    shown = CliRunner().invoke(app, ["lab", "squares", "--out", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "What are squares?" in shown.stdout and "1,234,567" in shown.stdout and "- They grow." in shown.stdout
    assert f"wrote {tmp_path / 'squares-line.svg'}" in shown.stderr
    printed = CliRunner().invoke(app, ["lab", "squares", "--out", str(tmp_path), "--json"])
    assert json.loads(printed.stdout)["name"] == "squares"


def test_an_unknown_study_is_named_with_those_there_are() -> None:
    found = CliRunner().invoke(app, ["lab", "alchemy"])
    assert isinstance(found.exception, ConfigError)
    assert found.exception.message == "'alchemy' is not a study"
    assert found.exception.hint == f"`finetune lab NAME` knows {', '.join(LABS)}"
    assert "descent, batch" in found.exception.hint


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LABS, "squares", __name__)
    (tmp_path / "file").write_text("")
    found = CliRunner().invoke(app, ["lab", "squares", "--out", str(tmp_path / "file")])
    assert isinstance(found.exception, ConfigError)
    assert f"{tmp_path / 'file'}" in found.exception.message and found.exception.hint


def test_a_number_that_nothing_computed_is_found(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("# 1 Title\n\nIt takes 3.5 GiB\nof 24 (Smith 2018, arXiv:1706.02677), `x = 7` and $y = 8$; a 7B.\n")
    page = Page(path)
    page.says("takes 3.5 GiB of")
    assert [found.split()[0] for found in page.unchecked()] and "24" in page.unchecked()[0]
    assert len(page.unchecked()) == 1
    with pytest.raises(AssertionError, match="does not say: takes 4"):
        page.says("takes 4")
