"""Every number of docs/security.md is the program's own."""

from __future__ import annotations

from checked_page import Page
from repo import REPO

from finetune.config.load import LONGEST
from finetune.config.sections import ModelConfig
from finetune.config.yaml_text import DEEPEST, MOST_VALUES
from finetune.data import file_limits, template_limits
from finetune.rl.text_rewards import PATTERN_SECONDS
from finetune.spec.source import SIZES


def test_the_page_says_what_is_so() -> None:
    page = Page(REPO / "docs" / "security.md")
    page.says(f"{template_limits.SECONDS:g} seconds by the clock for a batch of renderings")
    page.says(f"and {template_limits.MEMORY >> 20:,} MiB of memory")
    page.says(
        f"{template_limits.WRITTEN:,} characters at most come out, and a template has {template_limits.LONGEST:,}"
    )
    page.says(f"{DEEPEST} levels, {LONGEST:,} bytes, {MOST_VALUES:,} values once aliases are written out")
    page.says(f"A line of `.jsonl` has {file_limits.LONGEST_LINE:,} bytes at most")
    page.says(f"has {file_limits.WHOLE:,} bytes at most once decompressed, {file_limits.COLUMNS:,} columns")
    page.says(f"{file_limits.CELLS:,} values")
    page.says(f"at most {SIZES['num_hidden_layers']:,} layers")
    page.says(f"are given up after {PATTERN_SECONDS:g} second for a completion")
    assert ModelConfig(name_or_path="x").trust_remote_code is False
    assert page.unchecked() == []
