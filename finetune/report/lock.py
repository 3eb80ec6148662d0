"""One writer for each run directory."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from finetune.errors import RunDirError

LOCK, OWNER = ".lock", "owner.json"


class Lock:
    """Held by the operating system for as long as this process lives: one that a dead process left is free. Beside it
    stands who holds it, for people."""

    def __init__(self, folder: Path) -> None:
        self.owner = folder / OWNER
        self._lock = FileLock(folder / LOCK, timeout=0)

    def acquire(self) -> str | None:
        """Takes the lock. Returns a note where the process that held it ended without a word. Raises RunDirError where
        a living one holds it, OSError where nothing can be written there."""
        try:
            self._lock.acquire()
        except Timeout:
            raise RunDirError(
                f"{self.owner.parent} is in use by {self._who() or 'another process'}",
                "wait for it or stop it; two writers would spoil the run",
            ) from None
        except NotImplementedError:
            raise RunDirError(
                f"{self.owner.parent}: its file system has no locks", "name an output_dir on a disk of this machine"
            ) from None
        before = self._who()
        me = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.owner.write_text(json.dumps(me), encoding="utf-8")
        return f"{self.owner.parent}: {before} ended without a word; its lock is taken over" if before else None

    def release(self) -> None:
        """Gives it back."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):  # the next one says that this one ended without a word
                self.owner.unlink(missing_ok=True)
            self._lock.release()

    def _who(self) -> str | None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            owner = json.loads(self.owner.read_text(encoding="utf-8"))
            return f"process {int(owner['pid'])} on {str(owner['host'])[:100]} (since {str(owner['since'])[:40]})"
        return None
