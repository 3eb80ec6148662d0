"""The file of a sweep: what it accepts, and what it says of what it does not, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.config import load_each, load_sweep
from finetune.errors import ConfigError

GOOD = """\
config: run.yaml
search:
  lora.r: [8, 16]
  training.learning_rate: {loguniform: [1.0e-5, 1.0e-3]}
trials: 8
output_dir: runs/sweep
"""


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str) -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def test_the_defaults(write) -> None:
    sweep = load_sweep(write(GOOD))
    assert (sweep.metric, sweep.seed, sweep.concurrent, sweep.early_stopping) == (None, 42, None, "none")
    assert sweep.search["lora.r"] == [8, 16]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("config: run.yaml", "confg: run.yaml", "confg: unknown key; did you mean config?"),
        ("config: run.yaml\n", "", "config: is required"),
        ("[8, 16]", "[]", "search.lora.r: expected a list of at least one value; found []"),
        ("[8, 16]", "8", "search.lora.r: expected a list of values, {uniform: [low, high]}, {loguniform: [low, high]}"),
        ("[8, 16]", "{normal: [0, 1]}", "or {choice: [...]}; found {'normal': [0, 1]}"),
        ("[8, 16]", "{choice: 8}", "search.lora.r: expected a list of at least one value; found 8"),
        ("[8, 16]", "{uniform: [2, 1]}", "search.lora.r: uniform takes two numbers, the lower one first; found [2, 1]"),
        ("[8, 16]", "{uniform: [1, a]}", "uniform takes two numbers, the lower one first; found [1, 'a']"),
        ("[8, 16]", "[2026-01-01]", "search.lora.r: holds a value that no key takes, such as a date or infinity"),
        ("[8, 16]", "[.inf]", "search.lora.r: holds a value that no key takes"),
        ("[1.0e-5, 1.0e-3]", "[0, 1]", "search.training.learning_rate: loguniform takes numbers above 0; found 0"),
        ("trials: 8\n", "", "search.training.learning_rate is drawn at random: set trials, the number of draws"),
        ("trials: 8", "trials: 0", "trials: input should be greater than 0; found 0"),
        ("trials: 8", "trials: 5000", "trials: input should be less than or equal to 1000; found 5000"),
        ("trials: 8", "trials: '8'", "trials: input should be a valid integer; found '8'"),
        ("trials: 8", "trials: 8\nmetric: loss", "metric: input should be 'eval_loss', 'eval_margin'"),
        ("trials: 8", "trials: 8\nearly_stopping: asha", "early_stopping=asha and grace_steps go together"),
        ("trials: 8", "trials: 8\ngrace_steps: 3", "early_stopping=asha and grace_steps go together"),
        ("lora.r:", "output_dir:", "search.output_dir: each trial has a directory of its own"),
        (GOOD, "- 1", "expected keys such as config: and search:, found a list"),
        (GOOD, "search: {lora.r: [", "not valid YAML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(write, old: str, new: str, words: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as refused:
        load_sweep(write(GOOD.replace(old, new)))
    assert words in refused.value.message
    assert refused.value.hint
    assert refused.value.exit_code == 2


def test_every_problem_is_told_at_once(write) -> None:
    with pytest.raises(ConfigError) as refused:
        load_sweep(write("search: {lora.r: 1}\ntrials: -1\n"))
    assert "4 problems" in refused.value.message
    assert refused.value.hint == "docs/sweep.md lists every key of a sweep"


def test_every_value_to_be_tried_is_checked_and_each_problem_told_once(write) -> None:
    path = write("model: {name_or_path: a/b}\ndata: {train: rows.jsonl}\noutput_dir: runs/x\n")
    good = load_each(path, [["lora.r=4"], ["lora.r=8"]])
    assert [config.lora.r for config in good] == [4, 8]
    with pytest.raises(ConfigError) as refused:
        load_each(path, [["lora.r=-1", "lora.drop_out=3"], ["lora.r=-1", "training.method=fft"]])
    assert refused.value.message.splitlines() == [
        f"{path}: 3 problems with values to be tried",
        "  lora.r: input should be greater than 0; found -1",
        "  lora.drop_out: unknown key; did you mean dropout?",
        "  training.method: input should be 'sft', 'dpo', 'rloo' or 'grpo'; found 'fft'",
    ]
    with pytest.raises(ConfigError, match="no such file"):
        load_each(path.with_name("none.yaml"), [[]])
