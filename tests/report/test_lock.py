"""One writer for each run directory; a lock that a dead process left is taken over, and said."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from finetune.errors import RunDirError
from finetune.report.lock import Lock


@pytest.fixture
def another(tmp_path) -> Iterator[int]:
    """A process that holds the lock of `tmp_path` until it is killed."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        lock = Lock(tmp_path)
        lock.acquire()
        os.write(tell, b"!")
        signal.pause()
        os._exit(0)
    os.read(ready, 1)
    yield pid
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_a_living_process_keeps_others_out_and_a_dead_one_does_not(tmp_path, another):
    who = f"process {another} on {socket.gethostname()}"
    with pytest.raises(RunDirError) as refused:
        Lock(tmp_path).acquire()
    assert refused.value.message.startswith(f"{tmp_path} is in use by {who} (since 20")
    assert refused.value.hint == "wait for it or stop it; two writers would spoil the run"
    os.kill(another, signal.SIGKILL)
    os.waitpid(another, 0)
    lock = Lock(tmp_path)
    note = lock.acquire()
    assert note.startswith(f"{tmp_path}: {who}")
    assert note.endswith("ended without a word; its lock is taken over")
    assert json.loads((tmp_path / "owner.json").read_text(encoding="utf-8"))["pid"] == os.getpid()
    lock.release()
    assert not (tmp_path / "owner.json").exists()
    assert Lock(tmp_path).acquire() is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": "x", "host": 1, "since": null}'])
def test_an_owner_that_cannot_be_read_is_nobody(tmp_path, text):
    (tmp_path / "owner.json").write_text(text, encoding="utf-8")
    assert Lock(tmp_path).acquire() is None


def test_a_lock_that_was_never_taken_is_given_back_without_harm(tmp_path):
    Lock(tmp_path).release()
    assert not list(tmp_path.iterdir())
