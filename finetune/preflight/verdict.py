"""Prediction against device: fits or not, and what would make it fit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.config import RunConfig
from finetune.errors import DoesNotFit
from finetune.preflight.closed_form import Prediction, predict
from finetune.preflight.hardware import context_bytes, workspace_bytes
from finetune.spec import RunSpec, describe
from finetune.spec.device import find_device

FRAGMENTATION = 1.12
"""Reserved over allocated: the median of the T4 rows of the truth table; the worst was 1.49."""
GIB = 2**30


@dataclass(frozen=True)
class Verdict:
    """What a run takes and whether its device has it: `problems` are why it cannot run there, `advice` what to do."""

    spec: RunSpec
    prediction: Prediction
    disk_bytes: int
    problems: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether the device, present or assumed, has what the run takes."""
        return not self.problems

    def require_fit(self) -> Verdict:
        """Raises DoesNotFit where the run cannot be done on this machine."""
        if not self.spec.device.present:
            here = find_device(self.spec.config.hardware.model_copy(update={"device": "cpu"}))
            raise DoesNotFit(
                f"this run needs a CUDA GPU with {self.prediction.process / GIB:.1f} GiB of memory; "
                f"this machine has none ({here.name}, {here.memory_bytes / GIB:.0f} GiB)",
                "see what it takes on a card with `finetune preflight CONFIG --gpu 24GiB`; "
                "what trains here, on the CPU, is `finetune train configs/quickstart.yaml`",
            )
        if self.problems:
            raise DoesNotFit("\n".join(self.problems), "; ".join(self.advice))
        return self

    def to_json(self) -> dict[str, Any]:
        """The object that `finetune preflight --json` prints, and preflight.json holds."""
        prediction, parameters = self.prediction, self.spec.parameters
        return {
            "fits": self.fits,
            "device": self.spec.device.name,
            "parameters": {
                "total": parameters.total, "trainable": parameters.trainable, "quantized": parameters.quantized,
            },
            "memory": {
                "allocated_bytes": prediction.allocated,
                "reserved_bytes": prediction.reserved,
                "process_bytes": prediction.process,
                "device_bytes": self.spec.device.memory_bytes,
                "peak_phase": prediction.phase,
                "breakdown_bytes": prediction.breakdown,
            },
            "disk": {"needed_bytes": self.disk_bytes},
            "advice": self.advice,
        }  # fmt: skip


def preflight(spec: RunSpec) -> Verdict:
    """Predicts the run and compares with its device, without touching either."""
    prediction = _predict(spec)
    disk = _disk_needed(spec)
    problems = _problems(spec, prediction, disk)
    return Verdict(spec, prediction, disk, problems, _advice(spec, prediction) if problems else [])


def _predict(spec: RunSpec) -> Prediction:
    on_gpu = spec.device.kind == "cuda"
    return predict(
        spec,
        context_bytes=context_bytes(spec.device),
        workspace_bytes=workspace_bytes(spec.device),
        fragmentation=FRAGMENTATION if on_gpu else 1.0,
    )


def _problems(spec: RunSpec, prediction: Prediction, disk: int) -> list[str]:
    device, training, found = spec.device, spec.config.training, []
    if prediction.process > device.memory_bytes:
        need, has = prediction.process / GIB, device.memory_bytes / GIB
        found.append(f"this run needs {need:.1f} GiB, but {device.name} has {has:.1f} GiB")
    if device.kind == "cpu" and training.optimizer.startswith("paged"):
        found.append(
            f"training.optimizer={training.optimizer} pages between card and host, but this runs on {device.name}"
        )
    if device.kind == "cpu" and training.activation_offloading:
        found.append(f"training.activation_offloading moves activations off a card, but this runs on {device.name}")
    free = _free_disk(Path(spec.config.output_dir))
    if disk > free:
        found.append(f"output_dir needs {disk / GIB:.2f} GiB of disk, but {free / GIB:.2f} GiB are free")
    return found


def _advice(spec: RunSpec, prediction: Prediction) -> list[str]:
    """What to do, the cheapest first."""
    lines = []
    if prediction.process > spec.device.memory_bytes:
        lines += [f"`{change}` would fit" for change in _changes_that_fit(spec)] or ["no single change makes it fit"]
    if spec.device.kind == "cpu" and spec.config.training.optimizer.startswith("paged"):
        lines.append("set training.optimizer=adamw_torch")
    if spec.device.kind == "cpu" and spec.config.training.activation_offloading:
        lines.append("set training.activation_offloading=false")
    return lines or ["free disk space, or set another output_dir"]


def _changes_that_fit(spec: RunSpec) -> Iterator[str]:
    """Single changes, in the order that costs least speed, that bring the prediction under the device's memory."""
    training, length = spec.config.training, spec.config.data.max_length
    batch = training.micro_batch_size
    changes: list[tuple[str, Any]] = [
        ("training.loss_kernel", "fused_linear"),
        ("training.optimizer", "paged_adamw_8bit"),
    ]
    changes += [("training.micro_batch_size", batch // 2)] if batch > 1 else []
    changes += [("training.gradient_checkpointing", True)]
    changes += [("data.max_length", length >> shift) for shift in (1, 2, 3) if length >> shift >= 128]
    for key, value in changes:
        changed = _with(spec.config, key, value)
        if changed != spec.config and _predict(describe(changed, spec.device)).process <= spec.device.memory_bytes:
            yield f"{key}={str(value).lower()}"
            return


def _with(config: RunConfig, key: str, value: Any) -> RunConfig:
    section, name = key.split(".")
    updates = {name: value}
    if name == "micro_batch_size":  # the effective batch stays
        updates["gradient_accumulation_steps"] = config.training.gradient_accumulation_steps * 2
    return config.model_copy(update={section: getattr(config, section).model_copy(update=updates)})


def _disk_needed(spec: RunSpec) -> int:
    """Adapter, and the checkpoints kept: each an adapter and its optimiser state, at most 8 bytes a weight."""
    adapter = sum(tensor.bytes for tensor in spec.tensors if tensor.trainable)
    checkpoints = spec.config.training.save_total_limit + 1 if spec.config.training.save_steps else 0
    return adapter + checkpoints * (adapter + 8 * spec.parameters.trainable) + 64 * 2**20


def _free_disk(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
