"""Memory sizes as people write them."""

from __future__ import annotations

import re

UNITS = {
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}


def parse_size(text: str) -> int:
    """Bytes of a size such as `24GiB`, `500MiB` or `24GB`; raises ValueError where the unit is missing."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+) ?(KiB|MiB|GiB|TiB|KB|MB|GB|TB)", text.strip())
    if match and float(match[1]) > 0:
        return int(float(match[1]) * UNITS[match[2]])
    raise ValueError(f"{text!r} is not a memory size: write a number and a unit, such as 24GiB")
