"""docs/sweep.md: what scripts/update_docs.py does not write of it says what the code says."""

from __future__ import annotations

import re

import yaml
from checked_page import Page
from repo import REPO

from finetune import sweeping
from finetune.config import load_sweep
from finetune.errors import ConfigError, DoesNotFit, Stopped

PAGE = REPO / "docs" / "sweep.md"


def test_every_number() -> None:
    page = Page(PAGE)
    assert sweeping.PATIENCE == 60
    page.says("`--resume` waits a minute for its lock")
    assert (ConfigError.exit_code, DoesNotFit.exit_code, Stopped.exit_code) == (2, 3, 5)
    page.says("0 where at least one trial finished, 2 for a configuration that cannot be, 3 where none fits, 5 where")
    page.says("every running trial finishes its update and saves; exit code 5;")
    page.rest = re.sub(r"<!-- keys.*?<!-- /keys -->", "", page.rest, flags=re.DOTALL)  # from the code's own words
    assert page.unchecked() == []


def test_the_example_is_a_sweep(tmp_path) -> None:
    example = re.search(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    (tmp_path / "sweep.yaml").write_text(example, encoding="utf-8")
    shown, ships = load_sweep(tmp_path / "sweep.yaml"), load_sweep(REPO / "configs" / "sweeps" / "qlora_r16.yaml")
    assert shown.search.items() < ships.search.items(), "the table below it is of the one that ships"
    assert shown.trials == ships.trials


def test_its_commands_name_files_that_ship() -> None:
    text = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"finetune sweep (\S+)", text)
    assert named
    for file in named:
        assert "config" in yaml.safe_load((REPO / file).read_text(encoding="utf-8")), file
