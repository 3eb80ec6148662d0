"""Processors of this machine, for whoever shares work out; to count them takes no torch."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
