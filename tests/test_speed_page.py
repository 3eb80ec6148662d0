"""docs/speed.md: its tables are of committed results (tests/test_docs.py), which hold what the project promises; the
scripts that make them run, scaled down."""

from __future__ import annotations

import importlib
import json
import statistics
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from checked_page import Page
from repo import REPO

from finetune.config import load_config
from finetune.preflight import find_card, predict
from finetune.preflight.depth import price
from finetune.preflight.recomputing import ROOM
from finetune.spec import describe

BENCHMARKS = REPO / "benchmarks"


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("speed")


@pytest.fixture
def measured() -> dict[str, Any]:
    return json.loads((BENCHMARKS / "results" / "speed.json").read_text(encoding="utf-8"))


def test_short_rows_are_trained_at_least_two_and_a_half_times_as_fast(speed: ModuleType, measured: dict) -> None:
    ours, plain = measured["short"][speed.OURS], measured["short"][speed.PLAIN]
    assert measured["rounds"] >= 5 == len(ours["times_plain"])
    assert statistics.median(ours["times_plain"]) >= 2.5
    assert ours["held_out_loss"] <= 1.01 * plain["held_out_loss"], "speed is not bought with another loss"


def test_full_rows_are_never_slower(speed: ModuleType, measured: dict) -> None:
    assert min(measured["full"][speed.OURS]["times_plain"]) >= 1


def test_the_same_batches_have_the_same_losses(speed: ModuleType, measured: dict) -> None:
    """As near as 16 bits let them be, which have three digits; in float32 they agree in the fifth (parity_trl.json)."""
    near = {"bfloat16": 5e-3, "float32": 1e-3}[measured["dtype"]]
    padded, plain = (measured["short"][name] for name in ("finetune, padded", speed.PLAIN))
    assert padded["losses"] == pytest.approx(plain["losses"], rel=near)
    assert padded["tokens"] == plain["tokens"]
    full = measured["full"]
    assert full[speed.OURS]["losses"] == pytest.approx(full[speed.PLAIN]["losses"], rel=near)


def test_the_script_measures(
    speed: ModuleType, tiny_model: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ways of each kind of rows in one round: that of a dozen rows the speed says nothing is known."""
    ways = {kind: {name: ways[name] for name in (speed.PLAIN, speed.OURS)} for kind, ways in speed.WAYS.items()}
    monkeypatch.setattr(speed, "WAYS", ways)
    monkeypatch.setattr(speed, "STEPS", 3)
    out = tmp_path / "speed.json"
    given = ["--model", tiny_model, "--data", rows_file, "--dtype", "float32", "--rounds", 1, "--json", out]
    monkeypatch.setattr("sys.argv", ["speed.py", *map(str, given)])
    speed.main()
    found = json.loads(out.read_text(encoding="utf-8"))
    for kind in ways:
        for name in (speed.PLAIN, speed.OURS):
            one = found[kind][name]
            assert len(one["losses"]) == 3 and one["tokens_per_second"][0] > 0 and one["peak_bytes"] > 2**26
    assert found["full"][speed.OURS]["losses"] == pytest.approx(found["full"][speed.PLAIN]["losses"], rel=1e-3)


def test_the_profile_of_a_step(speed: ModuleType, config_file: Path, tmp_path: Path) -> None:
    profile = importlib.import_module("profile_step")
    spec = describe(load_config(config_file, ["training.max_steps=4", "data.eval=null"]))
    found = profile.measure(spec, 1, tmp_path)
    assert sum(found["seconds_by_kind"].values()) == pytest.approx(found["profiled_seconds_per_update"], rel=0.01)
    assert found["seconds_by_kind"]["matrix products"] > 0
    assert 0 < found["share_of_rate"] < 1
    assert profile.kind_of("aten::addmm") == profile.kind_of("ampere_bf16_s16816gemm") == "matrix products"
    assert profile.kind_of("bitsandbytes::dequantize_blockwise") == "expanding 4-bit weights"
    assert profile.kind_of("aten::mul") == profile.REST


def test_every_number(speed: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    page, long = Page(REPO / "docs" / "speed.md"), importlib.import_module("long_context")
    speed_page = importlib.import_module("speed_page")
    for place in ("parts", "beside", "axolotl", "kept", "profile", "long"):  # tests/test_docs.py makes them anew
        table = page.text.partition(f"<!-- {place}: ")[2].partition(f"<!-- /{place} -->")[0].partition("-->")[2]
        assert table.count("|") > 10
        page.says(table)
    parity = json.loads((BENCHMARKS / "results" / "parity_trl.json").read_text(encoding="utf-8"))
    assert parity["steps"] == 20 and parity["passed"]
    config = load_config(BENCHMARKS.parent / "configs" / "qlora_r32_long.yaml")
    assert (config.lora.r, config.data.max_length, config.hardware.memory) == (32, 131_072, long.CARD)
    page.says("on 24 GiB: the longest that was published for it is")
    page.says(f"{long.PUBLISHED:,} tokens, by Unsloth")
    page.says(f"goes to {config.data.max_length:,}, all positions of the model")
    page.says(f"in 4 bits, rank {config.lora.r} on all linear layers")
    measured = speed_page.load("speed")
    assert "load_in_4bit" in (BENCHMARKS / "plain_trl.py").read_text(encoding="utf-8")
    page.says(f"in 4 bits on two processor cores that multiply {measured['dtype']}, rank 16 on q, k, v and o")
    page.says(f"{ROOM:.0%} of the memory".replace("%", " %"))
    beside = speed_page.load("speed_axolotl")
    page.says(f"Axolotl {beside['axolotl']['axolotl']}, with the")
    page.says(f"transformers {beside['axolotl']['transformers']} and TRL {beside['axolotl']['trl']} that it asks for")
    page.says(f"in {beside['dtype']}, on the same rows as the model's template has them; three rounds")
    parts = importlib.import_module("speed_parts")
    measured = speed_page.load("speed_parts")
    assert measured["rounds"] == len(measured["ways"][parts.DEFAULT]) == 4
    page.says(f"which took {parts.cold_start(measured):.0f} s longer there")
    page.says("SmolLM2-135M in 4 bits on two processor cores, each way in turn in each of four rounds")
    page.says(f"packs of {speed.LENGTH} tokens of short rows")
    page.says("For Llama-3.1-8B on 24 GiB, by preflight")
    page.says(f"{speed.LENGTH} tokens a sequence")
    assert page.unchecked() == []


def test_the_layers_that_are_kept_are_those_of_the_table(speed: ModuleType) -> None:
    kept = importlib.import_module("kept_layers")
    found = json.loads(kept.RESULT.read_text(encoding="utf-8"))["micro_batches"]
    assert list(found) == [str(rows) for rows in kept.BATCHES]
    rows = kept.BATCHES[-1]
    spec = kept.described(rows, "auto")
    assert spec.recomputed_layers == found[str(rows)]["recomputed_layers"]
    assert predict(spec).process == found[str(rows)]["process_bytes"]
    assert all(one["process_bytes"] <= find_card(kept.CARD).memory_bytes for one in found.values())


@pytest.mark.parametrize("step", range(4))
def test_the_longest_rows_take_what_the_table_says(speed: ModuleType, step: int) -> None:
    long = importlib.import_module("long_context")
    name, found = list(json.loads(long.RESULT.read_text(encoding="utf-8"))["steps"].items())[step]
    memory = price(long.described(name, found["tokens"]))
    assert (memory.allocated, memory.process) == (found["allocated_bytes"], found["process_bytes"])
    assert memory.process <= find_card(long.CARD).memory_bytes


def test_each_part_is_measured_in_turn(
    speed: ModuleType, tiny_model: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here nothing is compiled, which tests/training/test_compiled.py does."""
    parts, out = importlib.import_module("speed_parts"), tmp_path / "parts.json"
    ways = {name: parts.WAYS[name] for name in (parts.DEFAULT, parts.MASK)}
    monkeypatch.setattr(parts, "WAYS", {**ways, parts.COMPILED: ["model.lean_norms=false"]})
    monkeypatch.setattr(parts, "STEPS", 3)
    given = ["--model", tiny_model, "--data", rows_file, "--dtype", "float32", "--rounds", 1, "--json", out]
    monkeypatch.setattr("sys.argv", ["speed_parts.py", *map(str, given)])
    parts.main()
    found = json.loads(out.read_text(encoding="utf-8"))
    (one,), (mask,), (other,) = found["ways"].values()
    assert one["losses"] == pytest.approx(mask["losses"], rel=1e-5) and one["tokens_per_second"] > 0
    around = [run["seconds"] - run["seconds_of_updates"] for run in (other, mask)]
    assert min(around) > 0 and parts.cold_start(found) == pytest.approx(around[0] - around[1])


def test_shares_and_the_cold_start_are_those_of_each_round(speed: ModuleType) -> None:
    parts = importlib.import_module("speed_parts")
    run = {"tokens_per_second": 100.0, "losses": [1.0], "peak_bytes": 2**30, "seconds_of_updates": 10.0}
    plain, slow = {**run, "seconds": 15.0}, {**run, "tokens_per_second": 150.0, "seconds": 75.0}
    result = {"ways": {parts.DEFAULT: [slow, plain], parts.MASK: [plain] * 2, parts.COMPILED: [slow, plain]}}
    assert parts.cold_start(result) == 30.0
    assert (
        parts.table(result).splitlines()[3] == "| packed over a mask | 100 (100 to 100) | 0.83 (0.67 to 1.00) | 1.00 |"
    )


def test_axolotl_is_given_what_plain_trl_is(speed: ModuleType, tmp_path: Path) -> None:
    beside = importlib.import_module("speed_axolotl")
    given = beside.settings("model", Path("rows.jsonl"), tmp_path)
    plain = (BENCHMARKS / "plain_trl.py").read_text(encoding="utf-8")
    names = {"lora_r": "r", "lora_alpha": "lora_alpha", "sequence_len": "max_length", "seed": "seed"}
    for ours, theirs in names.items():
        assert f"{theirs}={given[ours]}," in plain, ours
    assert f"target_modules={json.dumps(given['lora_target_modules'])}" in plain and "learning_rate=1e-3" in plain
    assert given["learning_rate"] == 1e-3 and given["load_in_4bit"] and given["warmup_steps"] == 1
    way = speed.WAYS["short"][speed.PLAIN].trl
    assert way["per_device_train_batch_size"] == given["micro_batch_size"]
    assert way["gradient_accumulation_steps"] == given["gradient_accumulation_steps"]


def test_axolotl_reads_rows_as_the_template_has_them(
    speed: ModuleType, tiny_model: Path, rows_file: Path, tmp_path: Path
) -> None:
    """And a Python without it is said to have none."""
    beside = importlib.import_module("speed_axolotl")
    options = SimpleNamespace(python=sys.executable, model=str(tiny_model), data=rows_file)
    folder = tmp_path / "given"
    folder.mkdir()
    with pytest.raises(SystemExit, match=r"Axolotl failed:[^$]*No module named 'axolotl'"):
        beside.run_axolotl(options, folder)
    rows = [json.loads(line)["messages"] for line in rows_file.read_text(encoding="utf-8").splitlines()]
    texts = [json.loads(line)["text"] for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(texts) == len(rows)
    assert all(said["content"] in text for row, text in zip(rows, texts, strict=True) for said in row)


def test_finetune_beside_axolotl(speed: ModuleType) -> None:
    beside = importlib.import_module("speed_axolotl")
    found = json.loads((BENCHMARKS / "results" / "speed_axolotl.json").read_text(encoding="utf-8"))
    assert found["rounds"] == 3 == len(found["ways"][beside.OURS])
    rates = [[one["tokens_per_second"] for one in found["ways"][name]] for name in (beside.OURS, beside.AXOLOTL)]
    assert all(ours > theirs for ours, theirs in zip(*rates, strict=True))
    first = [found["ways"][name][0]["losses"][0] for name in (beside.OURS, beside.AXOLOTL)]
    assert first == pytest.approx([first[0]] * 2, abs=0.15), "other rows, and the same kind of tokens"
