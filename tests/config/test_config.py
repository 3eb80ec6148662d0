"""The configuration: what it accepts, and what it says of what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.config import json_schema, load_config, parse_size, to_yaml
from finetune.errors import ConfigError

MINIMAL = "model: {name_or_path: a/b}\ndata: {train: rows.jsonl}\noutput_dir: runs/x\n"


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_defaults_are_qlora(write) -> None:
    config = load_config(write(MINIMAL))
    assert config.quantization.type == "nf4"
    assert config.quantization.double_quant
    assert config.lora.target_modules == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert (config.lora.r, config.lora.alpha, config.lora.dtype) == (16, 32, "float32")
    assert (config.training.optimizer, config.training.lr_scheduler) == ("paged_adamw_8bit", "cosine")
    assert config.training.gradient_checkpointing
    assert config.training.effective_batch_size == 16


def test_overrides_are_yaml_and_reach_every_depth(write) -> None:
    overrides = ["training.learning_rate=2e-4", "lora.target_modules=all-linear", "data.eval=null", "model.revision=v1"]
    config = load_config(write(MINIMAL), overrides)
    assert config.training.learning_rate == 2e-4
    assert config.lora.target_modules == "all-linear"
    assert config.data.eval is None
    assert config.model.revision == "v1"


def test_resolved_configuration_reads_back_equal(write, tmp_path: Path) -> None:
    config = load_config(write(MINIMAL), ["training.max_steps=3", "data.train=[{path: a.jsonl, weight: 0.5}]"])
    copy = tmp_path / "copy.yaml"
    copy.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(copy) == config


def test_every_problem_is_told_at_once(write) -> None:
    text = message(
        write("model: {name_or_path: a, nme: b}\ndata: {train: x, max_length: '5'}\ntraining: {max_step: 5}\n"),
        "lora.r=0",
    )
    assert "5 problems in the configuration" in text
    assert "model.nme: unknown key; known here: name_or_path," in text
    assert "data.max_length: input should be a valid integer; found '5'" in text
    assert "training.max_step: unknown key; did you mean max_steps?" in text
    assert "lora.r: input should be greater than 0; found 0" in text
    assert "output_dir: is required" in text
    assert "hint: `finetune schema` lists every key" in text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.lora_r=8", "training.lora_r: unknown key; did you mean lora.r?"),
        ("data.train=[{path: a, wight: 2}]", "data.train.0.wight: unknown key; did you mean weight?"),
        ("hardware.memory=24", "hardware.memory: "),
        (
            "hardware.memory='24'",
            "hardware.memory: '24' is not a memory size: write a number and a unit, such as 24GiB",
        ),
        ("training.autocast=float32", "training.autocast: autocast to float32 does nothing: use none"),
        ("training.method=ppo", "training.method: input should be 'sft', 'dpo', 'rloo' or 'grpo'; found 'ppo'"),
        ("training.lr_scaling=sqrt", "training.lr_scaling=sqrt needs training.reference_batch_size"),
        ("lora.target_modules=5", "lora.target_modules: "),
        ("training.learning_rate=fast", "training.learning_rate: input should be a valid number; found 'fast'"),
        ("data.eval_fraction=1.5", "data.eval_fraction: input should be less than 1; found 1.5"),
    ],
)
def test_what_is_said_of_a_wrong_value(write, override: str, words: str) -> None:
    assert words in message(write(MINIMAL), override)


def test_two_ways_to_hold_out_are_one_too_many(write) -> None:
    text = message(write(MINIMAL), "data.eval=e.jsonl", "data.eval_fraction=0.1")
    assert "data.eval='e.jsonl' and data.eval_fraction=0.1 both hold rows out: keep one" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected sections such as model: and data:, found an empty file"),
        ("- a\n", "expected sections such as model: and data:, found a list"),
        ("model: {a: b\n", "not valid YAML"),
        ("model: 1\nmodel: 2\n", "the key 'model' stands twice"),
    ],
)
def test_what_is_said_of_a_file_that_is_no_configuration(write, text: str, words: str) -> None:
    assert words in message(write(text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    text = message(tmp_path / "none.yaml")
    assert "none.yaml: no such file" in text
    assert "hint: give the path of a YAML file" in text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("max_steps", "'max_steps' is not an override"),
        ("lora.r.x=1", "r is not a section"),
        ("lora.r=[", "not valid YAML"),
    ],
)
def test_what_is_said_of_a_wrong_override(write, override: str, words: str) -> None:
    path = write(MINIMAL + "lora: {r: 4}\n")
    text = message(path, override)
    assert words in text
    assert "hint: overrides look like training.max_steps=20" in text


def test_sizes() -> None:
    assert parse_size("24GiB") == 24 * 2**30
    assert parse_size("1.5 GB") == 1_500_000_000
    for wrong in ("24", "GiB", "-1GiB", "0GiB", "24gb", ""):
        with pytest.raises(ValueError, match="is not a memory size"):
            parse_size(wrong)


def test_every_field_has_a_sentence_in_the_schema() -> None:
    schema = json_schema()
    for name, section in schema["$defs"].items():
        for key, field in section["properties"].items():
            assert field.get("description", "").endswith("."), f"{name}.{key} says nothing"
    assert schema["additionalProperties"] is False
