"""Memory that a run takes on its device."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

import psutil
import torch


class MemoryMeter:
    """Memory of a run on its device.

    On CUDA the allocator's peak of bytes in use; on the CPU the peak resident memory of the process above what it
    held when the meter was made, before any weight was loaded.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.baseline = psutil.Process().memory_info().rss
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            _restart_peak()

    @property
    def meaning(self) -> str:
        """What `peak` measures, for the report."""
        if self.device.type == "cuda":
            return "peak bytes allocated by torch"
        return "peak resident memory above that of the process before weights were loaded"

    def peak(self) -> int:
        """Highest use so far, in bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return max(0, _peak_resident() - self.baseline)

    def now(self) -> int:
        """Use at this moment, in bytes."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return max(0, psutil.Process().memory_info().rss - self.baseline)


def _restart_peak() -> None:
    """Begins the peak of resident memory anew where the system can (Linux): reading the data does not count."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_resident() -> int:
    """Highest resident memory of this process in bytes.

    Linux's getrusage also counts that of the process which started this one (measured), so VmHWM is read instead.
    """
    if sys.platform == "linux":
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
