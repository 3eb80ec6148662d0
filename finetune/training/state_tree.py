"""Nested state as two files that hold no code: its tensors as safetensors, all else as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

KIND = "!"
"""Key of a JSON object that stands for something which JSON lacks."""


def tree_files(name: str, tree: Any) -> dict[str, bytes]:
    """Dictionaries (of any plain keys), lists, tuples, numbers, strings, None, numpy arrays and torch tensors, as bytes
    by file name. Raises TypeError for anything else: nothing is ever pickled."""
    tensors: dict[str, torch.Tensor] = {}
    plain = json.dumps(_to_plain(tree, tensors), indent=1)
    return {f"{name}.json": plain.encode(), f"{name}.safetensors": save(tensors)}


def load_tree(folder: Path, name: str) -> Any:
    """What `tree_files` was given; tensors are on the CPU. Raises OSError, ValueError and safetensors' SafetensorError
    for files that are not of its making."""
    tensors = load((folder / f"{name}.safetensors").read_bytes())
    return _from_plain(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")), tensors)


def _to_plain(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor | np.ndarray):
        key = str(len(tensors))
        # A copy: safetensors refuses tensors that share memory, as the codes of 8-bit state do.
        tensors[key] = torch.as_tensor(value).detach().to("cpu", copy=True).contiguous()
        return {KIND: "tensor" if isinstance(value, torch.Tensor) else "array", "key": key}
    if isinstance(value, dict):
        pairs = [[_to_plain(key, tensors), _to_plain(item, tensors)] for key, item in value.items()]
        return {KIND: "dict", "items": pairs}
    if isinstance(value, tuple):
        return {KIND: "tuple", "items": [_to_plain(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_to_plain(item, tensors) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"state of a {type(value).__name__} cannot be saved without a pickle")


def _from_plain(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_from_plain(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if value[KIND] == "dict":
        return {_from_plain(key, tensors): _from_plain(item, tensors) for key, item in value["items"]}
    if value[KIND] == "tuple":
        return tuple(_from_plain(item, tensors) for item in value["items"])
    tensor = tensors[value["key"]]
    return tensor if value[KIND] == "tensor" else tensor.numpy()
