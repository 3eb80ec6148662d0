"""What a measurement was taken on: processor, card, driver, versions, commit. Imports no torch and touches no card."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "triton")


def environment() -> dict[str, Any]:
    """Facts about this machine and this checkout; None where one cannot be read. Names no host and no path."""
    return {
        "commit": _output("git", "-C", str(REPO), "describe", "--always", "--dirty"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "avx512_bf16": "avx512_bf16" in _cpuinfo("flags").split(),
        "gpu": nvidia_smi("name"),
        "gpu_memory_mib": nvidia_smi("memory.total"),
        "driver": nvidia_smi("driver_version"),
        **{name: _version(name) for name in LIBRARIES},
    }


def folder_and_json(about: str) -> argparse.Namespace:
    """The command line of a benchmark on a folder of data: `folder`, and `json`, a file for the result or None."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, help="file to write the result to")
    return parser.parse_args()


def nvidia_smi(field: str) -> str | None:
    """One field of the first card as nvidia-smi prints it, without a unit; None where there is no card."""
    text = _output("nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits")
    return text.splitlines()[0] if text else None


def used_bytes() -> int | None:
    """Bytes in use on the first card by every process, as the driver says, to the mebibyte; None without a card."""
    used = nvidia_smi("memory.used")
    return int(used) * 2**20 if used and used.isdigit() else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    numbers = f"family {_cpuinfo('cpu family')} model {_cpuinfo('model')}"
    return f"{_cpuinfo('model name')} ({numbers})"


def _cpuinfo(key: str) -> str:
    """The value of a key of the first processor in /proc/cpuinfo, empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next(
        (value.strip() for line in lines for name, _, value in [line.partition(":")] if name.strip() == key), ""
    )


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
