"""Every shipped configuration is a test case: it loads, is described offline, and its comments say what is computed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from repo import REPO

from finetune.config import load_config, load_each, load_sweep
from finetune.preflight import preflight
from finetune.preflight.depth import price
from finetune.spec import RunSpec, describe

CONFIGS = sorted((REPO / "configs").glob("*.yaml"))
CARDS = sorted((REPO / "configs").glob("qlora_*.yaml"))
TRAINABLE = {
    "qlora_r16": 16_777_216,
    "qlora_r16_t4": 16_777_216,
    "qlora_r16_qwen2.5-7b": 10_092_544,
    "qlora_r16_llama-3.1-8b": 13_631_488,
    "qlora_r16_mistral-7b": 13_631_488,
    "qlora_r32_long": 83_886_080,
}
ROOM = {"qlora_r32_long": 0.95}
"""Share of the card that a plan may take, where it is not 0.9: all positions of the model leave little."""


@pytest.fixture(scope="module", params=CARDS, ids=lambda path: path.stem)
def described(request: pytest.FixtureRequest) -> tuple[Path, RunSpec]:
    return request.param, describe(load_config(request.param))


def test_the_six_plans_ship() -> None:
    assert {path.stem for path in CARDS} == set(TRAINABLE)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_loads_and_names_its_schema(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=schema.json"
    config = load_config(path)
    assert config.output_dir == f"runs/{path.stem}"
    attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert config.lora.target_modules == ("all-linear" if path.stem == "qlora_r32_long" else attention)


@pytest.mark.parametrize("path", sorted((REPO / "configs" / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_sweep_is_of_a_plan_that_ships(path: Path) -> None:
    sweep = load_sweep(path)
    assert sweep.config == f"configs/{path.name}"
    assert sweep.output_dir == f"runs/sweep-{path.stem}"
    lists = [[f"{key}={json.dumps(value)}"] for key, given in sweep.search.items() if isinstance(given, list)
        for value in given]  # fmt: skip
    assert load_each(REPO / sweep.config, lists)


@pytest.mark.parametrize("path", [*CARDS, REPO / "configs" / "quickstart.yaml"], ids=lambda path: path.stem)
def test_a_plan_has_a_4_bit_base_and_recomputes(path: Path) -> None:
    config = load_config(path)
    assert (config.quantization.type, config.quantization.double_quant) == ("nf4", True)
    assert config.training.gradient_checkpointing


def test_every_value_of_a_plan_has_its_reason() -> None:
    wordless = (
        "name_or_path",
        "r:",
        "epochs",
        "lr_scheduler",
        "warmup_ratio",
        "seed",
        "device",
        "memory",
        "output_dir",
    )
    for path in CARDS:
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.match(r"^  \w+: ", line) and not line.strip().startswith(wordless):
                assert " # " in line, f"{path.name}: no reason given for {line.strip()!r}"


def test_trained_parameters(described: tuple[Path, RunSpec]) -> None:
    path, spec = described
    assert spec.parameters.trainable == TRAINABLE[path.stem]


def test_parameters_agree_with_the_published_configuration(described: tuple[Path, RunSpec], shared: Path) -> None:
    spec = described[1]
    name = spec.config.model.name_or_path.rpartition("/")[2]
    stored = next(f for f in (shared / "truth" / "models").iterdir() if name.startswith(f.name))
    published = json.loads((stored / "config.json").read_text(encoding="utf-8"))
    for key in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "num_key_value_heads"):
        assert getattr(spec.model_config, key) == published[key]


def test_it_fits_its_card_with_room(described: tuple[Path, RunSpec]) -> None:
    path, spec = described
    if path.stem in ROOM:  # many chunks take long to trace whole
        assert price(spec).process < ROOM[path.stem] * spec.device.memory_bytes
        return
    verdict = preflight(spec)
    assert verdict.fits
    assert verdict.prediction.process < 0.9 * spec.device.memory_bytes


def test_figures_in_the_comments(described: tuple[Path, RunSpec]) -> None:
    path, spec = described
    text = path.read_text(encoding="utf-8")
    vocabulary = re.search(r"([\d,]+) words x ([\d,]+) tokens", text)
    assert int(vocabulary[1].replace(",", "")) == spec.model_config.vocab_size
    tokens = spec.config.training.micro_batch_size * spec.config.data.max_length
    assert int(vocabulary[2].replace(",", "")) == tokens
    saved = spec.parameters.quantized * (1 / 16 - 1 / 64 - 4 / (64 * 256)) / 2**30
    assert f"saves {saved:.2f} GiB here" in text
    extra = spec.parameters.trainable * 2 / 2**20
    assert f"costs {extra:.0f} MiB" in text
    batch = spec.config.training.effective_batch_size
    assert f"{batch} packs, about {batch * spec.config.data.max_length:,} tokens" in text
