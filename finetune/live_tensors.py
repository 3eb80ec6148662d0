"""Bytes of the tensors that are alive, where no allocator counts them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Adds up the storages of all tensors alive while it is entered; `peak` is the largest sum so far, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._bytes: dict[int, int] = {}
        self._sum = 0

    def begin_with(self, tensors: Iterator[torch.Tensor]) -> None:
        """Forgets everything but the peak, and counts `tensors`."""
        self._bytes, self._sum = {}, 0
        for tensor in tensors:
            self._add(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf)
        return result

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._bytes or storage.device.type == "meta":
            return
        self._bytes[key] = size
        self._sum += size
        self.peak = max(self.peak, self._sum)
        weakref.finalize(storage, self._end, self._bytes, key, size)

    def _end(self, counted: dict[int, int], key: int, size: int) -> None:
        if counted is self._bytes and counted.pop(key, None) is not None:
            self._sum -= size
