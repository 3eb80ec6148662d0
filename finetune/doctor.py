"""This machine: device, driver, libraries, and what will be slow or missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from importlib import metadata
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.markup import escape

from finetune import __version__
from finetune.config import HardwareConfig
from finetune.spec import find_device

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets")
OPTIONAL = {
    "tensorboard": "training.report_to",
    "wandb": "training.report_to",
    "flash_attn": "model.attention=flash_attention_2",
}


def examine() -> dict[str, Any]:
    """Facts about the machine, and findings: what is wrong, slow or missing, each with what to do."""
    device = find_device(HardwareConfig())
    facts = {
        "finetune": __version__,
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "device": device.name,
        "device_memory_bytes": device.memory_bytes,
        "compute_dtype": str(device.compute_dtype).removeprefix("torch."),
        "cuda": torch.version.cuda,
        "driver": _driver(),
        "memory_bytes": psutil.virtual_memory().total,
        "disk_free_bytes": shutil.disk_usage(".").free,
        "optional": {name: importlib.util.find_spec(name) is not None for name in OPTIONAL},
    }
    return facts | {"findings": _findings(device, facts)}


def _findings(device: Any, facts: dict[str, Any]) -> list[dict[str, str]]:
    found = []
    if device.kind == "cpu":
        what = "torch was built without CUDA" if torch.version.cuda is None else "no CUDA device answers"
        found.append({"what": f"{what}: runs on the CPU, small models only", "hint": _cuda_hint()})
        if not device.bf16:
            found.append(
                {"what": "this CPU does not multiply bfloat16: float32 is used", "hint": "expected; nothing to do"}
            )
    elif not device.bf16:
        found.append(
            {"what": f"{device.name} has no bfloat16: float16 is used", "hint": "see configs/qlora_r16_t4.yaml"}
        )
    try:
        import bitsandbytes  # noqa: F401
    except Exception as error:
        found.append({"what": f"bitsandbytes does not load: {error}", "hint": "reinstall it for this CUDA version"})
    if shutil.which("cc") is None and shutil.which("gcc") is None and device.kind == "cuda":
        found.append({"what": "no C compiler: Triton kernels cannot be built", "hint": "apt-get install gcc libc6-dev"})
    if facts["disk_free_bytes"] < 20 * 2**30:
        free = facts["disk_free_bytes"] / 2**30
        found.append(
            {"what": f"{free:.1f} GiB of disk are free: a 7B model takes 15 GiB", "hint": "free some, or set HF_HOME"}
        )
    return found


def _cuda_hint() -> str:
    if shutil.which("nvidia-smi"):
        return "a driver is here: install the CUDA build of torch, or start the container with --gpus all"
    return "on a GPU host install the NVIDIA driver; nothing to do on a laptop"


def _driver() -> str | None:
    try:
        from pathlib import Path

        return Path("/proc/driver/nvidia/version").read_text().split("\n")[0].split("Module")[-1].split()[0]
    except (OSError, IndexError):
        return os.environ.get("NVIDIA_DRIVER_VERSION")


def show(facts: dict[str, Any], console: Console) -> None:
    """Prints the facts and findings for people."""
    gib = 2**30
    lines = {
        "finetune": f"{facts['finetune']}, Python {facts['python']}",
        "device": f"{facts['device']}, {facts['device_memory_bytes'] / gib:.1f} GiB, {facts['compute_dtype']}",
        "CUDA": f"{facts['cuda'] or 'not in this torch'}, driver {facts['driver'] or 'not found'}",
        "memory, disk": f"{facts['memory_bytes'] / gib:.1f} GiB, {facts['disk_free_bytes'] / gib:.1f} GiB free",
        "libraries": ", ".join(f"{name} {version}" for name, version in facts["libraries"].items()),
        "optional": ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in facts["optional"].items()),
    }
    for name, text in lines.items():
        console.print(f"[bold]{name:<14}[/bold]{escape(text)}", highlight=False, soft_wrap=True)
    for finding in facts["findings"]:
        console.print(
            f"[yellow]![/yellow] {escape(finding['what'])}\n  [dim]{escape(finding['hint'])}[/dim]", soft_wrap=True
        )
    if not facts["findings"]:
        console.print("[green]nothing is wrong, slow or missing[/green]")
