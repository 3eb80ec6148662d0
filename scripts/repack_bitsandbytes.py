"""Repacks the bitsandbytes wheel with the native libraries that one machine needs.

The published wheel carries a library for every CUDA, ROCm and XPU version; one of them is ever loaded.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import zipfile
from pathlib import Path

LIBRARY = re.compile(r"bitsandbytes/libbitsandbytes_(\w+)\.so")


def libraries(wheel: Path) -> list[str]:
    """Names the native libraries in `wheel`: cpu, cuda128, rocm70, …"""
    with zipfile.ZipFile(wheel) as archive:
        return sorted(match[1] for name in archive.namelist() if (match := LIBRARY.fullmatch(name)))


def repack(wheel: Path, keep: set[str]) -> Path:
    """Replaces `wheel` by one with only the libraries named in `keep`, and returns its path.

    Its file name and its WHEEL file carry a build tag, so that it is never taken for the published one.

    Raises:
        ValueError: a library in `keep` is not in the wheel; the wheel is left as it was.
    """
    if missing := keep.difference(libraries(wheel)):
        raise ValueError(f"{wheel.name} has no library for {', '.join(sorted(missing))}")
    name, version, *tags = wheel.name.split("-")
    build = "1" + "".join(sorted(keep))
    smaller = wheel.with_name("-".join([name, version, build, *tags[-3:]]))
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED) as new:
        changed = {f"{info}/WHEEL": _with_build(old.read(f"{info}/WHEEL"), build)}
        kept = [entry for entry in old.infolist() if _is_kept(entry.filename, keep)]
        changed[f"{info}/RECORD"] = _record(old.read(f"{info}/RECORD"), {e.filename for e in kept}, changed)
        for entry in kept:
            new.writestr(entry, changed.get(entry.filename) or old.read(entry))
    wheel.unlink()
    return smaller


def _is_kept(filename: str, keep: set[str]) -> bool:
    match = LIBRARY.fullmatch(filename)
    return match is None or match[1] in keep


def _with_build(wheel_file: bytes, build: str) -> bytes:
    lines = [line for line in wheel_file.decode().splitlines() if line and not line.startswith("Build:")]
    return "\n".join([*lines, f"Build: {build}", ""]).encode()


def _record(record: bytes, kept: set[str], changed: dict[str, bytes]) -> bytes:
    """The rows of RECORD (path, hash, size) for the files `kept`, with new hashes for those `changed`."""
    rows = []
    for path, digest, size in csv.reader(io.StringIO(record.decode())):
        if path in changed:
            digest, size = _digest(changed[path]), str(len(changed[path]))
        if path in kept:
            rows.append([path, digest, size])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
