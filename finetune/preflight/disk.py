"""The disk that a run takes, against what is free on the file systems it goes to.

Not counted: data sets fetched from the hub, whose size nobody knows before they are fetched.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache

from finetune.preflight.optimisers import saved_state_bytes
from finetune.spec import RunSpec, gguf

GIB = 2**30
TOKENIZER_BYTES = 40 * 2**20
"""Tokenizer and small files beside the adapter; Gemma's tokenizer, the largest in use, has 34 MB."""
STATE_BYTES = 4 * 2**20
"""Random numbers, schedule and account of the run in each checkpoint, with names and sizes of its tensors."""
REPORT_BYTES = 16 * 2**20
"""Configuration, metrics, answers and the report with its plots."""


@dataclass(frozen=True)
class Need:
    """Something that is written: where to, its bytes, and the bytes free there. `required` ones decide whether a run
    can be done; the others are told."""

    what: str
    path: str
    bytes: int
    free_bytes: int
    required: bool = True


@dataclass(frozen=True)
class Disk:
    """All that a run writes."""

    needs: tuple[Need, ...]

    @property
    def required_bytes(self) -> int:
        """What the run itself writes, on all file systems together."""
        return sum(need.bytes for need in self.needs if need.required)

    def problems(self) -> list[str]:
        """One sentence for each file system that lacks room for all that goes there; none where all fits."""
        required = sorted((need for need in self.needs if need.required), key=lambda need: _file_system(need.path))
        groups = [list(group) for _, group in groupby(required, key=lambda need: _file_system(need.path))]
        return [_shortage(group) for group in groups if sum(n.bytes for n in group) > min(n.free_bytes for n in group)]

    def to_json(self) -> dict[str, Any]:
        """The object under `disk` in the verdict."""
        return {"needed_bytes": self.required_bytes, "needs": [asdict(need) for need in self.needs]}


def disk_needs(spec: RunSpec, *, updates: int | None = None) -> Disk:
    """What a described run of `updates` optimiser updates (many, where None) writes, and what is free there."""
    output = Path(spec.config.output_dir).expanduser()
    adapter = sum(tensor.bytes for tensor in spec.tensors if tensor.trainable)
    sizes = [
        *_base_model(spec),
        ("checkpoints", output, _checkpoints_kept(spec, updates) * _checkpoint_bytes(spec, adapter), True),
        ("adapter and tokenizer", output, adapter + TOKENIZER_BYTES, True),
        ("reports", output, REPORT_BYTES, True),
        ("merged model, if exported", output, _dense_bytes(spec), False),
    ]
    return Disk(tuple(Need(what, str(path), size, _free(path), must) for what, path, size, must in sizes if size))


def _base_model(spec: RunSpec) -> list[tuple[str, Path, int, bool]]:
    """The base checkpoint where it is not on this machine yet: fetched from the hub, or converted from GGUF."""
    if spec.source.kind == "gguf" and not gguf.dense_directory(spec.source.path).exists():
        return [("dense copy of the GGUF file", gguf.cache_dir(), _dense_bytes(spec), True)]
    if spec.source.kind == "hub" and spec.config.model.weights == "pretrained":
        return [("download", Path(constants.HF_HUB_CACHE), math.ceil(_absent(spec) * _dense_bytes(spec)), True)]
    return []


def _absent(spec: RunSpec) -> float:
    """The share of a hub model's weight files that the hub's cache lacks, from 0 to 1."""
    if _cached(spec, "model.safetensors"):
        return 0.0
    index = _cached(spec, "model.safetensors.index.json")
    if index is None:
        return 1.0
    files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return sum(_cached(spec, name) is None for name in files) / len(files)


def _cached(spec: RunSpec, name: str) -> Path | None:
    found = try_to_load_from_cache(
        spec.source.name, name, cache_dir=constants.HF_HUB_CACHE, revision=spec.source.revision
    )
    return Path(found) if isinstance(found, str) else None  # neither None nor "known not to exist"


def _dense_bytes(spec: RunSpec) -> int:
    """The base model at 16 bits a weight, shared ones once: as almost all are published, and as GGUF is converted.

    The configuration's own `dtype` cannot tell: building the model on the meta device has overwritten it.
    """
    return 2 * sum(tensor.elements for tensor in spec.tensors if not tensor.trainable)


def _checkpoint_bytes(spec: RunSpec, adapter: int) -> int:
    sizes = (tensor.elements for tensor in spec.tensors if tensor.trainable)
    state = sum(saved_state_bytes(spec.config.training.optimizer, size) for size in sizes)
    return adapter + state + STATE_BYTES


def _checkpoints_kept(spec: RunSpec, updates: int | None) -> int:
    """Checkpoints on disk at once: those kept, the best one, and the one being written before the oldest goes."""
    training = spec.config.training
    if not training.save_steps:
        return 1  # that of a run which is stopped
    most = training.save_total_limit + 1 + bool(training.eval_steps and spec.config.data.holds_out)
    if updates is None or training.save_steps == "auto":
        return most if updates is None else min(most, updates)
    return min(most, math.ceil(updates / training.save_steps))  # the last update saves too


def _shortage(needs: list[Need]) -> str:
    parts = "; ".join(f"{need.what} {_size(need.bytes)} in {need.path}" for need in needs)
    total, free = sum(need.bytes for need in needs), min(need.free_bytes for need in needs)
    return f"this run writes {_size(total)}, but {_size(free)} are free ({parts})"


def _size(count: int) -> str:
    return f"{count / GIB:,.2f} GiB"


def _existing(path: Path) -> Path:
    """The nearest folder of a path that exists: the rest will be made on its file system."""
    path = path.absolute()
    # pathlib's own `exists` raises where a folder may not be looked into; this says no.
    return next(folder for folder in (path, *path.parents) if os.path.exists(folder))  # noqa: PTH110


def _file_system(path: str) -> int:
    return _existing(Path(path)).stat().st_dev


def _free(path: Path) -> int:
    return shutil.disk_usage(_existing(path)).free
