"""Fixtures that many tests share: a tiny model on disk, a few rows, a configuration that trains in seconds."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
from pathlib import Path

import hypothesis
import pytest
from repo import REPO

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Threads of a tiny model wait for each other more than they work, most of all on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")


LONGEST = (
    "test_docs.py", "test_accuracy.py", "test_survival_page.py", "test_several_processes.py", "test_sweep.py",
    "test_linear_rule.py", "test_compiled.py", "test_benchmarks.py", "test_preflight.py", "test_plan.py",
    "test_readme.py", "test_messy_figures.py", "test_speed_page.py", "test_sequence_page.py",
    "test_fine_tuning_page.py", "test_fuzz_commands.py", "test_fuzz.py",
)  # fmt: skip
"""Files that take half a minute or more: they come first, so that none is left to one worker at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest files first; within a file as written."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


gc.disable()  # until everything is imported, as in `finetune.cli.options.importing`


def pytest_collection_finish() -> None:
    """What was imported stays: a search for garbage in it would take half a second each time."""
    gc.enable()
    gc.freeze()


# The same cases in every run, and none kept between runs; a busy machine makes none of them fail.
hypothesis.settings.register_profile("project", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("project")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and measurements beside the repository; the test is skipped where it is absent."""
    folder = REPO.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the shared data beside the repository is absent")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a two-layer Llama and its tokenizer (scripts/make_tiny_model.py)."""
    spec = importlib.util.spec_from_file_location("make_tiny_model", REPO / "scripts" / "make_tiny_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    directory = tmp_path_factory.mktemp("tiny") / "model"
    module.main(str(directory))
    return directory


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    """Twelve conversations of unequal length in messages format."""
    return _write_rows(tmp_path / "rows.jsonl", "Say")


@pytest.fixture
def held_out_file(tmp_path: Path) -> Path:
    """Twelve others to evaluate on, as long as those."""
    return _write_rows(tmp_path / "held_out.jsonl", "Cry")


def _write_rows(path: Path, verb: str) -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{verb} {n} words."},
                {"role": "assistant", "content": "word " * n + "end"},
            ]
        }
        for n in range(1, 13)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def config_file(tmp_path: Path, tiny_model: Path, rows_file: Path, held_out_file: Path) -> Path:
    """A configuration that trains the tiny model for two steps in float32."""
    path = tmp_path / "config.yaml"
    path.write_text(
        f"""\
model: {{name_or_path: {tiny_model}}}
quantization: {{compute_dtype: float32}}
lora: {{r: 4, alpha: 8}}
data: {{train: {rows_file}, eval: {held_out_file}, max_length: 128}}
training:
  max_steps: 2
  micro_batch_size: 2
  gradient_accumulation_steps: 2
  learning_rate: 1.0e-2
  optimizer: adamw_torch
  gradient_checkpointing: true
  sample_answers: 1
  sample_max_new_tokens: 4
output_dir: {tmp_path / "run"}
""",
        encoding="utf-8",
    )
    return path
