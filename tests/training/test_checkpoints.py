"""A checkpoint counts once it is whole; others are passed over, and none that is good is lost to one that is not."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from finetune.training import checkpoints as module
from finetune.training.checkpoints import Unreadable, keep_checkpoints, newest_good, passed_over, write_checkpoint


def files(step: int) -> dict[str, bytes]:
    return {"adapter_model.safetensors": bytes(range(256)) * step, "training_state.json": b"state"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of steps 9, 10 and 100; by name the ninth would come last."""
    for step in (9, 10, 100):
        write_checkpoint(tmp_path, step, files(step))
    return tmp_path


def newest(folder: Path) -> str | None:
    found = newest_good(folder)
    return found and found.name


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_highest_step_wins_and_other_folders_are_ignored(folder):
    (folder / "checkpoint-last").mkdir()
    (folder / "runs").mkdir()
    assert newest(folder) == "checkpoint-100"
    assert passed_over(folder) == []


def test_a_manifest_names_step_size_and_digest_of_every_file(folder):
    manifest = json.loads((folder / "checkpoint-9" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["step"] == 9
    assert manifest["files"].keys() == files(9).keys()
    assert manifest["files"]["training_state.json"] == {"bytes": 5, "sha256": hashlib.sha256(b"state").hexdigest()}


def test_a_checkpoint_without_manifest_is_passed_over(folder):
    (folder / "checkpoint-100" / "manifest.json").unlink()
    assert newest(folder) == "checkpoint-10"
    assert [path.name for path in passed_over(folder)] == ["checkpoint-100"]


def test_a_truncated_a_changed_and_a_missing_file_are_seen(folder):
    weights = folder / "checkpoint-100" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert newest(folder) == "checkpoint-10"
    weights = folder / "checkpoint-10" / "adapter_model.safetensors"
    weights.write_bytes(b"\x01" + weights.read_bytes()[1:])
    assert newest(folder) == "checkpoint-9"
    (folder / "checkpoint-9" / "training_state.json").unlink()
    assert newest(folder) is None
    assert len(passed_over(folder)) == 3


def test_a_checkpoint_under_another_step_s_name_is_none(folder):
    (folder / "checkpoint-100").rename(folder / "checkpoint-200")
    assert newest(folder) == "checkpoint-10"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"files": []}', '{"step": 100, "files": {"x": 1}}', '{"step": 100}']
)
def test_a_manifest_that_is_not_one_of_ours_is_no_manifest(folder, text):
    (folder / "checkpoint-100" / "manifest.json").write_text(text, encoding="utf-8")
    assert newest(folder) == "checkpoint-10"


def test_nothing_is_found_where_nothing_is(tmp_path):
    assert newest_good(tmp_path) is None
    assert newest_good(tmp_path / "absent") is None
    assert passed_over(tmp_path / "absent") == []


def test_only_the_newest_are_kept_and_the_best(folder):
    keep_checkpoints(folder, 1, best=9)
    assert names(folder) == {"checkpoint-9", "checkpoint-100"}
    write_checkpoint(folder, 101, files(101))
    keep_checkpoints(folder, 2)
    assert names(folder) == {"checkpoint-100", "checkpoint-101"}


def test_a_damaged_one_does_not_count_among_those_kept(folder):
    (folder / "checkpoint-100" / "training_state.json").write_bytes(b"sta")
    keep_checkpoints(folder, 2)
    assert names(folder) == {"checkpoint-9", "checkpoint-10"}


def test_one_that_is_good_already_is_not_written_again(folder):
    before = (folder / "checkpoint-100").stat().st_ino
    write_checkpoint(folder, 100, files(100))
    assert (folder / "checkpoint-100").stat().st_ino == before


def test_a_damaged_one_is_replaced(folder):
    (folder / "checkpoint-100" / "training_state.json").write_bytes(b"stat?")
    write_checkpoint(folder, 100, files(100))
    assert newest(folder) == "checkpoint-100"
    assert names(folder) == {"checkpoint-9", "checkpoint-10", "checkpoint-100"}


def test_one_that_cannot_be_written_leaves_the_others_and_nothing_beside_them(folder, monkeypatch):
    real = os.write

    def full(descriptor, data):
        if len(data) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(folder, 101, files(101))
    assert names(folder) == {"checkpoint-9", "checkpoint-10", "checkpoint-100"}
    assert newest(folder) == "checkpoint-100"


def test_one_that_reads_otherwise_than_written_is_removed_and_said(folder, monkeypatch):
    write = module.write_folder

    def faulty(target, content):
        write(target, content)
        (target / "training_state.json").write_bytes(b"stat?")

    monkeypatch.setattr(module, "write_folder", faulty)
    with pytest.raises(Unreadable, match=r"checkpoint-101: it does not read back as it was written"):
        write_checkpoint(folder, 101, files(101))
    assert names(folder) == {"checkpoint-9", "checkpoint-10", "checkpoint-100"}
