"""What a run is made of, as hashes that anybody can compute again: files, rows, template, model, code, libraries."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import finetune
from finetune.config import DataSource, RunConfig
from finetune.spec import RunSpec

if TYPE_CHECKING:
    from finetune.data import LoadedData

LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "safetensors", "numpy")
BLOB = re.compile(r"[0-9a-f]{64}")
"""Name of a large file in the hub's cache: its own SHA-256."""

ABSENT = "absent"


def setting_inputs(spec: RunSpec) -> dict[str, Any]:
    """How a run was asked for, and what the machine gives: the code, the libraries, the device that computes."""
    libraries = {"python": platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES}}
    device: dict[str, Any] = {"name": spec.device.name}
    if spec.device.kind == "cpu":
        device["threads"] = torch.get_num_threads()  # they decide the order of sums
    return {
        "settings": spec.config.model_dump(mode="json", exclude={"output_dir"}),
        "code": {"version": finetune.__version__, "sha256": _code()},
        "libraries": libraries,
        "device": device,
    }


def data_inputs(spec: RunSpec, data: LoadedData) -> dict[str, Any]:
    """What a run learns from, and with: files of rows, the rows as the model sees them, template, tokenizer, model."""
    tokenizer = data.tokenizer
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)
    held_out = data.held_out
    return {
        "data": _sources(spec.config),
        "rows": {"train": _dataset(data.train_dataset), **({"eval": _rows(held_out)} if held_out else {})},
        "template": sha256_of_text(tokenizer.chat_template) if tokenizer.chat_template else None,
        "tokenizer": sha256_of_text(tokenizer.backend_tokenizer.to_str() + special),
        "model": _model(spec),
    }


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder, by its name; of none where the folder is absent."""
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    return {path.name: sha256_of(path) for path in files}


def differences(then: Any, now: Any, name: str = "") -> Iterator[str]:
    """One sentence for each value that differs, by its dotted name."""
    if isinstance(then, dict) or isinstance(now, dict):
        then, now = (value if isinstance(value, dict) else {} for value in (then, now))
        for key in dict.fromkeys([*then, *now]):
            yield from differences(then.get(key, ABSENT), now.get(key, ABSENT), f"{name}.{key}" if name else key)
    elif then != now:
        yield f"{name} was {_short(then)}, is {_short(now)}"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sources(config: RunConfig) -> dict[str, dict[str, str]]:
    """The files of each split by their SHA-256; what is not a file is known by its rows."""
    found: dict[str, dict[str, str]] = {}
    for role in ("train", "eval"):
        given = getattr(config.data, role)
        sources = [DataSource(path=given)] if isinstance(given, str) else given or []
        paths = {source.path: Path(source.path).expanduser() for source in sources}
        if sources:
            found[role] = {name: sha256_of(path) if path.is_file() else "from the hub" for name, path in paths.items()}
    return found


def _dataset(dataset: Any) -> str:
    """Of the columns' values in their order, however they are cut into chunks."""
    digest = hashlib.sha256()
    for name in sorted(dataset.column_names):
        column = dataset.with_format("arrow")[:][name].combine_chunks()
        digest.update(f"{name} {len(column)}".encode())
        if hasattr(column, "flatten") and hasattr(column, "value_lengths"):
            digest.update(column.value_lengths().to_numpy(zero_copy_only=False).tobytes())
            digest.update(column.flatten().to_numpy(zero_copy_only=False).tobytes())
        else:
            digest.update(json.dumps(column.to_pylist(), default=str).encode())
    return digest.hexdigest()


def _rows(rows: list[Any]) -> str:
    plain = (asdict(row) if is_dataclass(row) else row for row in rows)
    digest = hashlib.sha256()
    for row in plain:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _model(spec: RunSpec) -> dict[str, Any]:
    model, source = spec.config.model, spec.source
    folder = source.files()
    named = {"name_or_path": model.name_or_path, "trust_remote_code": model.trust_remote_code}
    if source.kind == "hub" and folder is not None:
        named["commit"] = folder.name
    if source.kind == "gguf":
        return {**named, "files": {source.path.name: sha256_of(source.path)}}
    names = ["config.json", "generation_config.json", *(["*.safetensors"] if model.weights == "pretrained" else [])]
    files = sorted(path for pattern in names for path in folder.glob(pattern)) if folder else []
    return {**named, "files": {path.name: _weights_hash(path) for path in files}}


def _weights_hash(path: Path) -> str:
    target = path.resolve().name if path.is_symlink() else ""
    return target if BLOB.fullmatch(target) else sha256_of(path)


def _code() -> str:
    """Of the package's own source files, by name and content."""
    root = Path(finetune.__file__).parent
    lines = (f"{path.relative_to(root).as_posix()} {sha256_of(path)}\n" for path in sorted(root.rglob("*.py")))
    return sha256_of_text("".join(lines))


def sha256_of_text(text: str) -> str:
    """SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text[:12] if BLOB.fullmatch(text) else text
