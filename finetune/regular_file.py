"""Files that strangers name: regular ones alone, so that nothing waits for a pipe or reads a device without end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory",
}


LONGEST_PART, LONGEST = 255, 4095
"""Bytes of a file's name, and of a path (Linux, `limits.h`)."""


def require_name(text: str) -> None:
    """Raises ValueError where no file can have the name, so that to ask for it is an error and no answer."""
    reason = ""
    try:
        raw = os.fsencode(text)
        Path(text).expanduser()
    except UnicodeEncodeError:
        reason = "half a surrogate pair stands in it"
    except RuntimeError:
        reason = "there is no such user"
    else:
        if b"\0" in raw:
            reason = "a NUL stands in it"
        elif len(raw) > LONGEST or max(map(len, raw.split(b"/"))) > LONGEST_PART:
            reason = f"it is too long, {len(raw):,} bytes"
    if reason:
        raise ValueError(f"{text[:60]!r} is no name of a file: {reason}")


def require_regular(path: Path) -> None:
    """Raises OSError where the path leads, perhaps by a symlink, to anything but a file, or to nothing."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {KINDS.get(stat.S_IFMT(mode), 'no file')}", str(path))


def read_bytes(path: Path, most: int) -> bytes:
    """The whole of a regular file. Raises OSError, also where it has more than `most` bytes."""
    require_regular(path)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return content
