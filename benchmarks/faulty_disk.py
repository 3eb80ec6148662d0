"""A disk that fails at a chosen operation: full, faulty, forbidden, cut short, or without power.

Every call below one folder that changes it is counted: files made, written, forced to the disk, renamed and removed.
A power cut undoes what the disk had not been told to keep, in the two ways that file systems do: the bytes of a file
that was not forced to the disk are gone, and, worse, a name whose folder was not forced is as it was before.
"""

from __future__ import annotations

import errno
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAULTS = {
    "full": errno.ENOSPC,
    "input/output error": errno.EIO,
    "permission lost": errno.EACCES,
    "short write": None,
    "killed": None,
    "power lost, bytes gone": None,
    "power lost, names back": None,
}
"""Kinds of fault, and the error that a call then raises."""

CALLS = ("open", "write", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir")


class FaultyDisk:
    """Fails with `fault` at operation number `at` below `folder`, counted from 1, and from there on `times` times;
    `at=0` only counts. `log` has each operation by name; `install` patches this process for good: it is a fork."""

    def __init__(self, folder: Path, fault: str = "killed", at: int = 0, times: int = 1) -> None:
        self.folder, self.fault, self.at, self.times = str(folder.resolve()), fault, at, times
        self.log: list[str] = []
        self._files: dict[int, str] = {}
        self._unsynced: set[str] = set()
        self._names: list[tuple[str, Callable[[], Any]]] = []

    def install(self) -> None:
        """From here on this process has this disk."""
        self._real = {name: getattr(os, name) for name in CALLS}
        for name in CALLS:
            setattr(os, name, getattr(self, f"_{name}"))
        self._io_open, io.open = io.open, self._python_open

    def _inside(self, path: Any) -> bool:
        if not isinstance(path, str | os.PathLike):
            return False
        full = os.path.abspath(path)
        return full == self.folder or full.startswith(self.folder + os.sep)

    def _count(self, name: str, path: Any) -> bool:
        """Notes an operation; raises, kills or returns True (a short write) where it is the one to fail."""
        self.log.append(f"{name} {os.path.relpath(path, self.folder)}")
        number = len(self.log)
        if not self.at or not self.at <= number < self.at + self.times:
            return False
        code = FAULTS[self.fault]
        if code is not None:
            raise OSError(code, os.strerror(code), None if name in ("write", "fsync") else str(path))
        if self.fault == "short write":
            return True
        if self.fault != "killed":
            self._lose_power()
        os.kill(os.getpid(), signal.SIGKILL)
        return False

    def _lose_power(self) -> None:
        if self.fault == "power lost, names back":
            for _, undo in reversed(self._names):
                undo()
        for path in self._unsynced:
            if os.path.isfile(path):
                os.truncate(path, 0)

    def _open(self, path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        inside = self._inside(path) and not kwargs.get("dir_fd")
        if inside and flags & os.O_CREAT:
            self._count("open", path)
        descriptor = self._real["open"](path, flags, *args, **kwargs)
        if inside:
            self._files[descriptor] = os.path.abspath(path)
        return descriptor

    def _python_open(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if self._inside(file) and set(mode) & set("wax+"):
            self._count("open", file)
        return self._io_open(file, mode, *args, **kwargs)

    def _write(self, descriptor: int, data: Any) -> int:
        path = self._path_of(descriptor)
        if path:
            self._unsynced.add(path)
            if self._count("write", path):
                data = memoryview(data)[: max(1, len(data) // 2)]
        return self._real["write"](descriptor, data)

    def _fsync(self, descriptor: int) -> None:
        path = self._path_of(descriptor)
        if path:
            self._count("fsync", path)
        self._real["fsync"](descriptor)
        if path:
            self._unsynced.discard(path)
            self._names = [(folder, undo) for folder, undo in self._names if folder != path]

    def _path_of(self, descriptor: int) -> str | None:
        """The file behind a descriptor, which may have been closed and given out again since."""
        path = self._files.get(descriptor)
        try:
            same = path and os.readlink(f"/proc/self/fd/{descriptor}") == path
        except OSError:
            same = False
        return path if same else None

    def _replace(self, source: Any, target: Any, **kwargs: Any) -> None:
        if not self._inside(target):
            return self._real["replace"](source, target, **kwargs)
        self._count("rename", target)
        source, target = os.path.abspath(source), os.path.abspath(target)
        old = Path(target).read_bytes() if os.path.isfile(target) else None
        self._real["replace"](source, target)
        self._unsynced = {
            path.replace(source, target, 1) if path.startswith(source) else path for path in self._unsynced
        }
        self._names.append((os.path.dirname(target), lambda: self._back(source, target, old)))
        return None

    _rename = _replace

    def _back(self, source: str, target: str, old: bytes | None) -> None:
        if os.path.lexists(target) and not os.path.lexists(source):
            self._real["replace"](target, source)
            if old is not None:
                descriptor = self._real["open"](target, os.O_WRONLY | os.O_CREAT)
                self._real["write"](descriptor, old)
                os.close(descriptor)

    def _mkdir(self, path: Any, *args: Any, **kwargs: Any) -> None:
        if self._inside(path):
            self._count("mkdir", path)
        self._real["mkdir"](path, *args, **kwargs)

    def _unlink(self, path: Any, *args: Any, **kwargs: Any) -> None:
        # Inside a tree that is being removed the path is a bare name: not ours to count.
        if self._inside(path) and not kwargs.get("dir_fd"):
            self._count("unlink", path)
        self._real["unlink"](path, *args, **kwargs)

    def _rmdir(self, path: Any, *args: Any, **kwargs: Any) -> None:
        if self._inside(path) and not kwargs.get("dir_fd"):
            self._count("rmdir", path)
        self._real["rmdir"](path, *args, **kwargs)
