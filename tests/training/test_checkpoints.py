"""A checkpoint counts once its manifest is there and every file matches it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.training.checkpoints import newest_good, write_manifest


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """Checkpoints of steps 9, 10 and 100, all whole; by name the ninth would come last."""
    for step in (9, 10, 100):
        folder = tmp_path / f"checkpoint-{step}"
        (folder / "global").mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * step)
        (folder / "global" / "optimizer.pt").write_bytes(b"state")
        write_manifest(folder)
    return tmp_path


def step_of(checkpoints: Path) -> str | None:
    found = newest_good(checkpoints)
    return found and found.name


def test_the_highest_step_wins_and_other_folders_are_ignored(checkpoints):
    (checkpoints / "checkpoint-last").mkdir()
    (checkpoints / "runs").mkdir()
    assert step_of(checkpoints) == "checkpoint-100"


def test_a_manifest_names_size_and_digest_of_every_file(checkpoints):
    manifest = json.loads((checkpoints / "checkpoint-9" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["files"].keys() == {"adapter_model.safetensors", "global/optimizer.pt"}
    assert manifest["files"]["global/optimizer.pt"] == {
        "bytes": 5,
        "sha256": "4ba69735ca53765ed6a709edb56c6ea236b7193a3b29a6b390c346f0f4340e4e",
    }


def test_a_checkpoint_without_manifest_is_skipped(checkpoints):
    (checkpoints / "checkpoint-100" / "manifest.json").unlink()
    assert step_of(checkpoints) == "checkpoint-10"


def test_a_truncated_a_changed_and_a_missing_file_are_seen(checkpoints):
    weights = checkpoints / "checkpoint-100" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert step_of(checkpoints) == "checkpoint-10"
    weights = checkpoints / "checkpoint-10" / "adapter_model.safetensors"
    weights.write_bytes(b"\x01" + weights.read_bytes()[1:])
    assert step_of(checkpoints) == "checkpoint-9"
    (checkpoints / "checkpoint-9" / "global" / "optimizer.pt").unlink()
    assert step_of(checkpoints) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"files": []}', '{"files": {"x": 1}}', '{"files": {}}'])
def test_a_manifest_that_is_not_one_of_ours_is_no_manifest(checkpoints, text):
    (checkpoints / "checkpoint-100" / "manifest.json").write_text(text, encoding="utf-8")
    assert step_of(checkpoints) == "checkpoint-10"


def test_nothing_is_found_where_nothing_is(tmp_path):
    assert newest_good(tmp_path) is None
    assert newest_good(tmp_path / "absent") is None
