"""docs/export.md says what the committed result and the program's constants say."""

from __future__ import annotations

import importlib

from checked_page import Page
from repo import REPO

from finetune.export.gguf_families import FAMILIES
from finetune.export.parity import LARGEST, QUESTIONS


def test_every_number(monkeypatch) -> None:
    monkeypatch.syspath_prepend(REPO / "benchmarks")
    page = Page(REPO / "docs" / "export.md")
    for name, table in importlib.import_module("export").tables().items():
        page.says(f"<!-- {name}: written by scripts/update_docs.py --> {table} <!-- /{name} -->")
    page.says(f"at most {LARGEST:g} nats a token apart")
    assert len(QUESTIONS) == 8
    page.says("over eight rendered conversations")
    assert list(FAMILIES) == ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "olmo2", "phi3"]
    page.says("Families with a GGUF file: Llama, Mistral, Qwen2, Qwen3, Gemma 2, Gemma 3 (text), Phi-3 and OLMo 2")
    page.says("scalings of positions but linear and Llama 3's, are refused")  # test_gguf_families.py
    assert page.unchecked() == []
