"""A limit on the memory of this process, for as long as it does what a stranger asks of it."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

STATM = Path("/proc/self/statm")


@contextlib.contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """The address space may grow by `more` bytes within the block, where the system is Linux; what asks for more gets
    a MemoryError. It holds for all threads (setrlimit(2), RLIMIT_AS)."""
    if not STATM.exists():
        yield
        return
    taken = int(STATM.read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    ends = [taken + more, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(ends), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
