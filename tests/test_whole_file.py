"""Files and folders appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from finetune.whole_file import remove_folder, replace_text, write_folder

OLD, NEW = {"a": b"old", "gone": b"old"}, {"a": b"new", "b": b""}


def content(folder: Path) -> dict[str, bytes]:
    """Every file by its name, but for what is about to be removed."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.parent.name.endswith(".gone")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_folder_takes_the_place_of_another(tmp_path):
    write_folder(tmp_path / "deep" / "x", OLD)
    write_folder(tmp_path / "deep" / "x", NEW)
    assert content(tmp_path) == {"deep/x/a": b"new", "deep/x/b": b""}


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_what_cannot_be_written_leaves_all_as_it_was(tmp_path, monkeypatch, call):
    """At every call of its kind, one after another."""
    write_folder(tmp_path / "x", OLD)
    replace_text(tmp_path / "file", "old")
    before, real, at = content(tmp_path), getattr(os, call), 0
    while True:
        at, calls = at + 1, 0

        def fail(*args, real=real, at=at, **kwargs):
            nonlocal calls
            calls += 1
            if calls == at:
                raise OSError(errno.EIO, "Input/output error")
            return real(*args, **kwargs)

        monkeypatch.setattr(os, call, fail)
        failed = 0
        for write in (lambda: write_folder(tmp_path / "x", NEW), lambda: replace_text(tmp_path / "file", "new")):
            try:
                write()
            except OSError:
                failed += 1
                break
        monkeypatch.setattr(os, call, real)
        if not failed:
            break
        after = content(tmp_path)
        assert {path: data for path, data in after.items() if path.startswith("x/")} in (
            {path: data for path, data in before.items() if path.startswith("x/")},
            {"x/a": b"new", "x/b": b""},  # the disk failed once the new one stood
        )
        assert after["file"] in (b"old", b"new")
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".") and path.name.endswith(".tmp")]
    assert at > 2
    assert content(tmp_path) == {"file": b"new", "x/a": b"new", "x/b": b""}


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "theirs").write_text("theirs", encoding="utf-8")
    (tmp_path / "mine").symlink_to(tmp_path / "theirs")
    (tmp_path / ".mine.tmp").symlink_to(tmp_path / "theirs")
    replace_text(tmp_path / "mine", "mine")
    assert (tmp_path / "theirs").read_text(encoding="utf-8") == "theirs"
    assert not (tmp_path / "mine").is_symlink()


def test_a_link_to_a_folder_is_removed_and_the_folder_stays(tmp_path):
    write_folder(tmp_path / "theirs", OLD)
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    remove_folder(tmp_path / "link")
    remove_folder(tmp_path / "absent")
    assert content(tmp_path) == {"theirs/a": b"old", "theirs/gone": b"old"}
