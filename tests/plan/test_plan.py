"""`finetune plan`: what follows from a configuration and a number of rows, and what it would change."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from repo import REPO
from rich.console import Console

from finetune.config import load_config
from finetune.errors import ConfigError
from finetune.pipeline import plan_ahead
from finetune.plan import DataSize, make_plan, show_plan
from finetune.preflight import find_card, preflight
from finetune.spec import describe

PLANS = sorted((REPO / "configs").glob("qlora_r16*.yaml"))
FIFTY_THOUSAND = ["data.packing=false", "training.epochs=5", "training.max_steps=null"]


def plan_cli(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "finetune.cli", "plan", *arguments]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)


def shown(plan) -> str:
    out = io.StringIO()
    show_plan(plan, Console(file=out, width=200))
    return out.getvalue()


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_the_shipped_plans(path: Path) -> None:
    plan = plan_ahead(load_config(path, []), "RTX 4090", examples=15_011)
    found = plan.to_json()
    training = plan.verdict.spec.config.training
    size = found["batch"]["effective_batch_size"]
    assert found["batch"]["steps_per_epoch"] == math.ceil(15_011 / size)
    assert found["compute"]["flops_per_step"] == plan.verdict.prediction.flops * training.gradient_accumulation_steps
    assert found["compute"]["flops"] == found["compute"]["flops_per_step"] * found["batch"]["total_steps"]
    assert found["tokens"]["per_step"] == size * plan.verdict.spec.config.data.max_length
    assert found["fits"] and found["time"]["seconds"][0] > 0


@pytest.mark.parametrize(("passes", "per_epoch", "total", "rate"), [(50, 250, 1250, 2e-4), (500, 25, 125, 2e-3)])
def test_ten_times_the_batch_is_a_tenth_of_the_updates_and_ten_times_the_rate(
    passes: int, per_epoch: int, total: int, rate: float
) -> None:
    """n = 50,000 rows, five epochs, batches of 200 and 2,000, the linear rule."""
    rule = ["training.lr_scaling=linear", "training.reference_batch_size=200", "training.learning_rate=2e-4"]
    keys = [*FIFTY_THOUSAND, *rule, "training.micro_batch_size=4", f"training.gradient_accumulation_steps={passes}"]
    found = plan_ahead(load_config(PLANS[0], keys), "RTX 4090", examples=50_000).to_json()["batch"]
    assert (found["steps_per_epoch"], found["total_steps"]) == (per_epoch, total)
    assert found["learning_rate"] == pytest.approx(rate)
    assert found["warmup_steps"] == math.ceil(0.03 * total)


def test_every_figure_has_its_reason() -> None:
    keys = [*FIFTY_THOUSAND, "training.lr_scaling=sqrt", "training.reference_batch_size=4"]
    text = shown(plan_ahead(load_config(PLANS[0], keys), "RTX 4090", examples=50_001))
    assert "16,777,216 (0.23%)" in text
    assert "3,126 an epoch, 15,630 in all" in text
    assert "50,001 / 16 rounded up, the last of 1; x 5 epochs" in text
    assert "0.0002 x sqrt(16 / 4), for 4 times the reference batch" in text
    assert "at most: every row at data.max_length" in text
    assert "the last update of each epoch has 1 of 16 examples" in text


def test_from_a_config_json_alone_the_updates_are_unknown(tmp_path: Path) -> None:
    source = next((REPO / "finetune" / "spec" / "model_configs").rglob("config.json"))
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    plan = plan_ahead(load_config(PLANS[0], [f"model.name_or_path={model}", "data.train=not-there.jsonl"]), "24GiB")
    found = plan.to_json()
    assert found["batch"]["total_steps"] is None and found["tokens"]["total"] is None
    assert found["compute"]["flops_per_step"] > 0
    assert "how many examples there are decides it: --examples N, or --data to read them" in shown(plan)


def test_with_the_data_read_tokens_are_those_of_the_rows(config_file: Path) -> None:
    keys = ["training.max_steps=null", "training.epochs=3", "data.max_length=512"]
    plan = plan_ahead(load_config(config_file, keys), with_data=True)
    found = plan.to_json()
    assert found["batch"]["examples"] == 12
    assert found["tokens"]["exact"] and found["tokens"]["total"] == 3 * found["tokens"]["per_epoch"]
    assert "`data.max_length=128`" in shown(plan), "the longest row has between 64 and 128 tokens"


def test_a_small_pass_on_a_card_is_made_larger_where_it_fits() -> None:
    keys = ["training.micro_batch_size=1", "training.gradient_accumulation_steps=16", "data.max_length=512"]
    plan = plan_ahead(load_config(PLANS[0], keys), "RTX 4090")
    change = next(doubt.change for doubt in plan.doubts if "leaves a card waiting" in doubt.why)
    assert change == "training.micro_batch_size=8 training.gradient_accumulation_steps=2"
    larger = plan_ahead(load_config(PLANS[0], [*keys, *change.split()]), "RTX 4090")
    assert larger.verdict.fits
    assert not any("waiting" in doubt.why for doubt in larger.doubts)


def test_what_does_not_fit_is_said_with_advice_and_its_exit_code() -> None:
    done = plan_cli(str(PLANS[0]), "--gpu", "8GiB", "--examples", "1000")
    assert done.returncode == 3
    assert "does not fit: this run needs" in done.stdout
    assert "would fit" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--examples", "10"], 2, "the effective batch of 4 x 4 = 16 is more than the 10 training examples"),
        (["--examples", "0"], 2, "--examples 0: there is nothing to train on"),
        (["training.learning_rate=-1e-4"], 2, "training.learning_rate"),
        (["training.lr_scaling=sqrt"], 2, "training.lr_scaling=sqrt needs training.reference_batch_size"),
        (["--noise-scale", "-3"], 2, "--noise-scale -3 is not above zero"),
        (["--gpu", "Voodoo"], 2, "'Voodoo' is not a known card"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_input(arguments: list[str], code: int, words: str) -> None:
    done = plan_cli(str(REPO / "configs" / "qlora_r16.yaml"), *arguments)
    assert done.returncode == code
    assert words in done.stderr and "hint:" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_json_is_one_object_with_the_keys_of_the_contract() -> None:
    done = plan_cli(str(REPO / "configs" / "qlora_r16.yaml"), "--gpu", "24GiB", "--examples", "50000", "--json")
    found = json.loads(done.stdout)
    assert {"fits", "parameters", "memory", "advice"} <= found.keys()
    wanted = {"effective_batch_size", "steps_per_epoch", "total_steps", "learning_rate"}
    assert wanted <= found["batch"].keys() and "flops_per_step" in found["compute"]


def test_a_noise_scale_below_the_batch_is_a_doubt() -> None:
    plan = plan_ahead(load_config(PLANS[0], []), "RTX 4090", examples=50_000, noise_scale=4)
    assert any("beyond the noise scale of 4" in doubt.why for doubt in plan.doubts)
    with pytest.raises(ConfigError, match="is not above zero"):
        plan_ahead(load_config(PLANS[0], []), "RTX 4090", noise_scale=0)


@pytest.mark.parametrize(("method", "kind", "tokens"), [("dpo", "pairs", 2), ("grpo", "completions", 1)])
def test_an_update_counts_what_the_method_learns_from(method: str, kind: str, tokens: int) -> None:
    """A pair is two rows of `max_length`; a prompt is answered eight times. Neither can be packed."""
    rewards = ["rewards=[{type: length, max: 9}]"] if method == "grpo" else []
    keys = [f"training.method={method}", "data.packing=false", "training.max_steps=null", *rewards]
    spec = describe(load_config(PLANS[0], keys), find_card("24GiB"))
    training = spec.config.training
    sparse = DataSize(examples=160, tokens=160 * 100, trained_tokens=160 * 50, longest=900)
    plan = make_plan(preflight(spec, examples=sparse.examples), data=sparse)
    size = f"{training.micro_batch_size} x {training.gradient_accumulation_steps} = {training.effective_batch_size}"
    assert f"{size} {kind}" in shown(plan)
    assert not any(doubt.change and "packing" in doubt.change for doubt in plan.doubts)
    without = make_plan(preflight(spec))
    assert without.tokens.per_update == tokens * training.effective_batch_size * spec.config.data.max_length
    answers = 8 if method == "grpo" else 1
    assert plan.updates.total == 160 * answers / training.effective_batch_size
