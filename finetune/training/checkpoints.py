"""Checkpoints that are whole or absent: written aside, forced to the disk, renamed, read back, and only then counted.

transformers writes them in place and resumes from the highest number, half-written or not (transformers#35782).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from finetune.whole_file import Contents, remove_folder, write_folder

MANIFEST = "manifest.json"
PREFIX = "checkpoint-"


class Unreadable(OSError):
    """A checkpoint does not read back as it was written."""


def write_checkpoint(folder: Path, step: int, files: Mapping[str, Contents]) -> Path:
    """Writes `checkpoint-STEP` in `folder` with a manifest of sizes and SHA-256, and reads it back. Raises OSError, and
    leaves the other checkpoints alone.

    One of that step which is good already stays as it is: a run that is resumed comes to the same state again.
    """
    target = folder / f"{PREFIX}{step}"
    if is_good(target):
        return target
    entries = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    manifest = json.dumps({"step": step, "files": entries}, indent=1).encode()
    write_folder(target, {**files, MANIFEST: manifest})
    if not is_good(target):
        remove_folder(target)
        raise Unreadable(f"{target}: it does not read back as it was written")
    return target


def keep_checkpoints(folder: Path, count: int, best: int | None = None) -> None:
    """Removes all but the `count` newest complete checkpoints and that of step `best`; called once a new one is known
    to be good. Raises OSError."""
    complete = [path for path in _by_age(folder) if _matches(path, _size)]
    kept = {*complete[:count], folder / f"{PREFIX}{best}"}
    for path in _by_age(folder):
        if path not in kept:
            remove_folder(path)


def newest_good(folder: Path) -> Path | None:
    """The checkpoint with the highest step that is whole; None where there is none."""
    return next((path for path in _by_age(folder) if is_good(path)), None)


def passed_over(folder: Path) -> list[Path]:
    """Checkpoints newer than the newest good one: damaged, or not written to their end."""
    good = newest_good(folder)
    return [path for path in _by_age(folder) if good is None or step_of(path) > step_of(good)]


def is_good(checkpoint: Path) -> bool:
    """Whether the manifest is of this step, and every file that it lists is there unchanged."""
    return _matches(checkpoint, _fingerprint)


def _matches(checkpoint: Path, look: Callable[[Path], dict[str, int | str]]) -> bool:
    """Whether every file is as the manifest has it, as far as `look` sees."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        listed = manifest["files"]
        if f"{PREFIX}{manifest['step']}" != checkpoint.name or not listed:
            return False
        return all(look(checkpoint / Path(name).name).items() <= entry.items() for name, entry in listed.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent, or not what we wrote
        return False


def _by_age(folder: Path) -> list[Path]:
    """All checkpoints, the newest first."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path | None) -> int:
    """Updates done at a checkpoint; 0 where there is none."""
    return 0 if checkpoint is None else int(checkpoint.name.removeprefix(PREFIX))


def _size(path: Path) -> dict[str, int | str]:
    return {"bytes": path.stat().st_size}


def _fingerprint(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        if hasattr(os, "posix_fadvise"):  # from the disk itself, not from what the system remembers of writing it
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
