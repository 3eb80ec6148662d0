"""docs/export.md says what the committed result and the program's constants say."""

from __future__ import annotations

import importlib

from checked_page import Page
from repo import REPO

from finetune.export.parity import LARGEST, QUESTIONS


def test_every_number(monkeypatch) -> None:
    monkeypatch.syspath_prepend(REPO / "benchmarks")
    page = Page(REPO / "docs" / "export.md")
    for name, table in importlib.import_module("export").tables().items():
        page.says(f"<!-- {name}: written by scripts/update_docs.py --> {table} <!-- /{name} -->")
    page.says(f"at most {LARGEST:g} nats a token apart")
    assert len(QUESTIONS) == 8
    page.says("over eight rendered conversations")
    assert page.unchecked() == []
