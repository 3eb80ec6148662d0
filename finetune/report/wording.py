"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any


def known(value: Any, write: Callable[[Any], str]) -> str:
    """`write(value)`, or the words for a value that is None."""
    return "not measured" if value is None else write(value)


def count(number: int) -> str:
    """1234567 → 1,234,567."""
    return f"{number:,}"


def gib(size: float) -> str:
    """Bytes in GiB, two decimals."""
    return f"{size / 2**30:,.2f} GiB"


def duration(seconds: float) -> str:
    """300.1 → 5 min 0 s; under a minute with one decimal."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min {rest} s" if hours else f"{minutes} min {rest} s"


def rate(tokens_per_second: float) -> str:
    """Whole tokens per second from 100 upwards, one decimal below."""
    return f"{tokens_per_second:,.0f}" if tokens_per_second >= 100 else f"{tokens_per_second:.1f}"


def perplexity(nats: float) -> str:
    """exp(loss): two decimals below 1,000, none above, a power of ten from a million."""
    value = math.exp(nats) if nats < 700 else math.inf  # exp overflows a float at 709.8
    if value < 1e6:
        return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"
    return f"{value:.1e}"


def percent(fraction: float) -> str:
    """A change with its sign, one decimal: -0.231 → −23.1 %."""
    digits = f"{abs(fraction):,.1%}".removesuffix("%")
    sign = "" if digits == "0.0" else "−" if fraction < 0 else "+"
    return f"{sign}{digits} %"


def moment(time: datetime) -> str:
    """22 November 2026, 10:00 UTC."""
    return f"{time.day} {time:%B %Y, %H:%M %Z}".strip()


def plain(value: Any) -> str:
    """A setting of any kind: lists with commas, floats at their shortest."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def change(before: float | None, after: float | None) -> float | None:
    """(after - before) / before; None where it has no meaning."""
    if before is None or after is None or not before or not math.isfinite(before + after):
        return None
    return (after - before) / before
