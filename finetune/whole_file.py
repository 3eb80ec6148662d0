"""Files and folders that appear whole or not at all, also where the power fails in between.

Written aside, forced to the disk (fsync), then renamed: a rename is the one step that a file system does at once. The
folder is forced to the disk after it, or the name itself could be lost (fsync(2), rename(2)).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

Contents = bytes | memoryview


def replace_text(path: Path, text: str) -> None:
    """As `replace_bytes`, in UTF-8 with Unix line ends."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, data: Contents) -> None:
    """Writes beside `path`, then renames: a reader sees the old file or the new one, never a half. Where `path` is a
    link the link is replaced, not what it points to. Raises OSError, and leaves nothing beside it then."""
    beside = path.with_name(f".{path.name}.tmp")
    try:
        write_durably(beside, data)
        beside.replace(path)
        sync_folder(path.parent)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def write_folder(target: Path, files: Mapping[str, Contents]) -> None:
    """A folder of these files, by name, in the place of whatever `target` was. Raises OSError, and leaves `target` as
    it was then."""
    aside, old = target.with_name(f".{target.name}.tmp"), _gone(target)
    try:
        remove_folder(aside)
        aside.mkdir(parents=True)
        for name, data in files.items():
            write_durably(aside / name, data)
        sync_folder(aside)
        _move_into_place(aside, target, old)
        sync_folder(target.parent)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _move_into_place(aside: Path, target: Path, old: Path) -> None:
    """A folder cannot be renamed over another: the old one steps aside, and back where the new one cannot come."""
    shutil.rmtree(old, ignore_errors=True)  # that of a process which ended right here
    replaces = os.path.lexists(target)
    if replaces:
        target.replace(old)
    try:
        aside.replace(target)
    except OSError:
        if replaces:
            old.replace(target)
        raise


def remove_folder(path: Path) -> None:
    """Removes a folder that may not be there; under its own name it is gone at once, never half there. Raises
    OSError."""
    gone = _gone(path)
    shutil.rmtree(gone, ignore_errors=True)
    if os.path.lexists(path):
        path.replace(gone)
        shutil.rmtree(gone) if gone.is_dir() and not gone.is_symlink() else gone.unlink()


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """An empty folder for as long as the block runs, whatever was there before. Raises OSError where it cannot be made;
    one that cannot be removed is left behind, for whoever makes it next."""
    remove_folder(path)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _gone(path: Path) -> Path:
    return path.with_name(f".{path.name.lstrip('.')}.gone")


def write_durably(path: Path, data: Contents) -> None:
    """A new file whose bytes are on the disk when this returns. Raises OSError, which names the file."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:  # a write may take a part only
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Forces the names in a folder to the disk, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
