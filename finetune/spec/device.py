"""The machine a run is meant for: what it computes natively and how much memory it has."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch

from finetune.config import HardwareConfig, parse_size
from finetune.cores import usable_cores

DEFAULT_CARD_BYTES = 24 * 2**30
"""Card that is assumed where the configuration asks for CUDA and this machine has none (RTX 3090, 4090)."""


@dataclass(frozen=True)
class Device:
    """A device, present or assumed.

    `memory_bytes` is what a run may use of it; `bf16` says whether it multiplies bfloat16 natively.
    """

    kind: Literal["cuda", "cpu"]
    name: str
    memory_bytes: int
    bf16: bool
    present: bool = True
    capability: tuple[int, int] | None = None

    @property
    def torch_device(self) -> torch.device:
        """The device that tensors of a run are placed on."""
        return torch.device("cuda:0") if self.kind == "cuda" else torch.device("cpu")

    @property
    def compute_dtype(self) -> torch.dtype:
        """Widest-range 16-bit type that the device multiplies natively; float32 on a CPU without bfloat16."""
        if self.bf16:
            return torch.bfloat16
        return torch.float16 if self.kind == "cuda" else torch.float32


def find_device(hardware: HardwareConfig, sharing: int = 1) -> Device:
    """The device of this machine that `hardware` asks for, or an assumed card where it asks for CUDA in vain.

    Of a card that is present, the memory that no other process uses; of the host's memory the share of one of the
    `sharing` processes of the run.
    """
    limit = None if hardware.memory == "auto" else parse_size(hardware.memory)
    if hardware.device != "cpu" and torch.cuda.is_available():
        return _cuda_device(limit)
    if hardware.device == "cuda":
        size = limit or DEFAULT_CARD_BYTES
        return Device("cuda", f"a {size / 2**30:.0f}-GiB card", size, bf16=True, present=False)
    return _cpu_device(limit, sharing)


def _cuda_device(limit: int | None) -> Device:
    others = 0 if torch.cuda.is_initialized() else used_bytes()
    properties = torch.cuda.get_device_properties(0)
    free = properties.total_memory - others
    size = min(limit or free, free)
    capability = (properties.major, properties.minor)
    # bfloat16 came with Ampere (8.0); torch also reports cards that only emulate it.
    return Device("cuda", properties.name, size, bf16=capability >= (8, 0), capability=capability)


def used_bytes() -> int:
    """Memory in use of the first card that this process may use, by the driver's word; 0 where it says nothing.

    To be asked before this process touches the card, whose context would be counted with that of others.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"
    command = ["nvidia-smi", f"--id={first}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return int(done.stdout.strip()) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError):
        return 0


def _cpu_device(limit: int | None, sharing: int) -> Device:
    total = min(psutil.virtual_memory().total, _container_limit()) // sharing
    name = f"CPU, {usable_cores()} cores"
    return Device("cpu", name, min(limit or total, total), bf16=_cpu_has_bf16())


def _cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself: emulated it is 6 to 15 times slower than float32 (measured)."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("amx_tile"))


def _container_limit() -> float:
    """Memory limit of the control group (version 2, then 1) that this process runs in, in bytes."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(file).read_text())
        except (OSError, ValueError):
            continue
    return float("inf")
