"""Disk: what a run writes, against what it really wrote, and the words where there is no room."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import pytest
from huggingface_hub import constants
from rich.console import Console

from finetune import pipeline
from finetune.config import load_config
from finetune.preflight.disk import STATE_BYTES, Disk, Need, disk_needs
from finetune.spec import ModelSource, RunSpec, describe


@pytest.fixture
def spec(config_file: Path) -> RunSpec:
    return describe(load_config(config_file, ("training.save_steps=1", "training.save_total_limit=1", "lora.r=64")))


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def named(disk: Disk) -> dict[str, Need]:
    return {need.what: need for need in disk.needs}


def from_hub(spec: RunSpec) -> RunSpec:
    """The same model, as if it came from the hub."""
    return dataclasses.replace(spec, source=ModelSource("hub", "org/tiny"))


def base_weights(spec: RunSpec) -> int:
    return spec.parameters.total - spec.parameters.trainable


def snapshot(cache: Path, *names: str) -> Path:
    """A snapshot of `org/tiny` in the hub's cache, as huggingface_hub lays it out."""
    repository = cache / "models--org--tiny"
    folder = repository / "snapshots" / "0123abc"
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc", encoding="utf-8")
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_a_local_directory_is_not_fetched(spec: RunSpec) -> None:
    disk = disk_needs(spec)
    assert set(named(disk)) == {"checkpoints", "adapter and tokenizer", "reports", "merged model, if exported"}
    assert {need.path for need in disk.needs} == {spec.config.output_dir}


def test_a_hub_model_is_fetched_at_16_bits_a_weight(spec: RunSpec, hub_cache: Path) -> None:
    download = named(disk_needs(from_hub(spec)))["download"]
    assert (download.bytes, download.path, download.required) == (2 * base_weights(spec), str(hub_cache), True)


def test_random_weights_are_not_fetched(spec: RunSpec, hub_cache: Path) -> None:
    section = spec.config.model.model_copy(update={"weights": "random"})
    random = dataclasses.replace(from_hub(spec), config=spec.config.model_copy(update={"model": section}))
    assert "download" not in named(disk_needs(random))


def test_what_the_cache_holds_is_not_fetched_again(spec: RunSpec, hub_cache: Path) -> None:
    snapshot(hub_cache, "model.safetensors")
    assert "download" not in named(disk_needs(from_hub(spec)))
    other = dataclasses.replace(spec, source=ModelSource("hub", "org/tiny", revision="v2"))
    assert "download" in named(disk_needs(other))


def test_only_missing_shards_are_fetched(spec: RunSpec, hub_cache: Path) -> None:
    folder = snapshot(hub_cache, "a.safetensors", "b.safetensors", "c.safetensors")
    index = {"weight_map": {"w1": "a.safetensors", "w2": "b.safetensors", "w3": "c.safetensors", "w4": "d.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert named(disk_needs(from_hub(spec)))["download"].bytes == base_weights(spec) / 2
    (folder / "d.safetensors").write_bytes(b"")
    assert "download" not in named(disk_needs(from_hub(spec)))


def test_a_gguf_file_is_converted_once(spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune.spec import gguf

    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF")
    converted = dataclasses.replace(spec, source=ModelSource("gguf", str(file), file))
    copy = named(disk_needs(converted))["dense copy of the GGUF file"]
    assert (copy.bytes, copy.path) == (2 * base_weights(spec), str(tmp_path / "cache"))
    gguf.dense_directory(file).mkdir(parents=True)
    assert "dense copy of the GGUF file" not in named(disk_needs(converted))


@pytest.mark.parametrize(("optimizer", "state"), [("adamw_torch", 8), ("paged_adamw_8bit", 8), ("sgd", 0)])
def test_checkpoints_hold_the_optimiser_and_number_one_more_than_kept(
    config_file: Path, optimizer: str, state: float
) -> None:
    """State of tensors as small as these stays in 32 bits."""
    keys = (f"training.optimizer={optimizer}", "training.save_steps=10", "training.save_total_limit=3")
    spec = describe(load_config(config_file, keys))
    one = (4 + state) * spec.parameters.trainable + STATE_BYTES
    for updates, count in {None: 4, 1000: 4, 25: 3, 5: 1}.items():
        assert named(disk_needs(spec, updates=updates))["checkpoints"].bytes == pytest.approx(count * one, rel=1e-6)


@pytest.mark.parametrize(("keys", "count"), [(["save_steps=null"], 1), ([], 3), (["eval_steps=5"], 4)])
def test_checkpoints_by_the_clock_or_where_a_run_is_stopped(config_file: Path, keys: list[str], count: int) -> None:
    """By the clock: two kept and the one being written, besides the best where there is one."""
    spec = describe(load_config(config_file, [f"training.{key}" for key in keys]))
    one = (4 + 8) * spec.parameters.trainable + STATE_BYTES
    assert named(disk_needs(spec))["checkpoints"].bytes == pytest.approx(count * one, rel=1e-6)


def test_merging_is_told_and_not_required(spec: RunSpec) -> None:
    disk = disk_needs(spec)
    merged = named(disk)["merged model, if exported"]
    assert (merged.bytes, merged.required) == (2 * base_weights(spec), False)
    assert disk.required_bytes == sum(need.bytes for need in disk.needs) - merged.bytes
    assert disk.to_json()["needed_bytes"] == disk.required_bytes
    assert disk.to_json()["needs"][0].keys() == {"what", "path", "bytes", "free_bytes", "required"}
    assert not Disk((dataclasses.replace(merged, free_bytes=0),)).problems()


def test_a_real_checkpoint_takes_what_was_said(spec: RunSpec) -> None:
    pipeline.train(spec.config, Console(file=io.StringIO()))
    checkpoints = list((Path(spec.config.output_dir) / "checkpoints").glob("checkpoint-*"))
    assert len(checkpoints) == 1
    files = {path.name: path.stat().st_size for path in checkpoints[0].iterdir()}
    said = named(disk_needs(spec, updates=1))["checkpoints"].bytes
    state = files["adapter_model.safetensors"] + files["training_state.safetensors"]
    assert state == pytest.approx(said - STATE_BYTES, rel=0.05)
    assert sum(files.values()) < said


def test_needs_on_one_file_system_are_added_up(tmp_path: Path) -> None:
    gib = 2**30
    (tmp_path / "download").mkdir()  # the other does not exist yet
    needs = [Need(what, str(tmp_path / what), 6 * gib, 10 * gib) for what in ("download", "checkpoints")]
    assert not Disk(tuple(needs[:1])).problems()
    assert Disk(tuple(needs)).problems() == [
        "this run writes 12.00 GiB, but 10.00 GiB are free "
        f"(download 6.00 GiB in {tmp_path}/download; checkpoints 6.00 GiB in {tmp_path}/checkpoints)"
    ]


def test_file_systems_are_judged_apart(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has one file system")
    gib = 2**30
    assert not Disk(tuple(Need("copy", str(path), 6 * gib, 10 * gib) for path in (memory, tmp_path))).problems()


def test_a_run_that_no_disk_holds(config_file: Path) -> None:
    keys = ("training.save_steps=1", "training.save_total_limit=1000000000")
    (problem,) = disk_needs(describe(load_config(config_file, keys))).problems()
    assert re.match(
        r"this run writes [\d,]+\.\d\d GiB, but [\d,]+\.\d\d GiB are free \(checkpoints [\d,.]+ GiB in ", problem
    )
