"""docs/several-gpus.md says what the program does; its tables are preflight's (tests/test_docs.py)."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest
import torch.distributed.run
from checked_page import Page
from repo import REPO

from finetune.config import load_config
from finetune.errors import ConfigError
from finetune.processes import Processes


def test_every_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPO / "benchmarks")
    several = importlib.import_module("several_gpus")
    page = Page(REPO / "docs" / "several-gpus.md")
    for place in ("cards", "shards", "updates"):  # tests/test_docs.py makes them anew
        table = page.text.partition(f"<!-- {place}: ")[2].partition(f"<!-- /{place} -->")[0].partition("-->")[2]
        assert table.count("|") > 20
        page.says(table)
    for overrides in several.CASES.values():
        config = load_config(several.CONFIG, overrides)
        assert (config.training.effective_batch_size, config.data.max_length, config.lora.r) == (16, 2048, 16)
        assert config.quantization.type == "nf4"
        if config.training.gradient_accumulation_steps < 16:
            Processes(0, 8).require_shares(config)
    page.says("for packs of 2,048 tokens and r = 16 on the attention projections, 16 packs an update")
    page.says("no more than one card in 4 bits")
    rows = [line.split(" | ") for line in page.text.splitlines() if line.startswith("| `hardware.shards=")]
    assert [fits for *_, fits, _ in rows] == ["no", "no", "yes", "yes"]
    page.says("torchrun --nproc-per-node 4 -m finetune train configs/qlora_r16_llama-3.1-8b.yaml hardware.shards=4")
    page.says("share the frozen 4-bit base out")
    page.says("in 32 bits on a CPU a run of two processes")
    page.says("Where 16 packs are more than 8 cards need")
    page.says(f"with 8 in a ring, {2 * 7 / 8:g} times the last column")
    assert "30 seconds" in inspect.getsource(torch.distributed.run)
    page.says("kills after 30 s what has not ended")
    page.says("Its own exit code is 1")
    page.says("With `lora.dropout` above 0")
    tests = (REPO / "tests" / "training" / "test_several_processes.py").read_text(encoding="utf-8")
    assert "adapters_differ(run, expected) < 1e-5" in tests and "else 1e-5, abs=1e-7" in tests
    page.says("what is logged differs by less than 1e-5 of itself and the adapter by less than 1e-5")
    assert page.unchecked() == []


def test_the_commands() -> None:
    """The plan that they name can be shared out among 8 as it is changed there, and not as it is."""
    config = REPO / "configs" / "qlora_r16.yaml"
    Processes(0, 8).require_shares(load_config(config, ["training.gradient_accumulation_steps=8"]))
    with pytest.raises(ConfigError):
        Processes(0, 8).require_shares(load_config(config))
    Processes(0, 4).require_shares(load_config(several_config(), ["hardware.shards=4"]))


def several_config() -> Path:
    return REPO / "configs" / "qlora_r16_llama-3.1-8b.yaml"
