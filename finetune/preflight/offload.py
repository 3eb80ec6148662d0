"""Activation offloading as TRL does it (`trl/models/activation_offloading.py`), on tensors without contents.

A saved activation leaves for host memory and stays on the card until four more have followed it, so that the copy
overlaps with the forward pass; in the backward pass it comes back, and stays until the node after it has run.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

SMALLEST = 1024
"""Bytes below which a tensor stays where it is."""
IN_FLIGHT = 5
"""Activations that are kept while they are copied out."""


class Offload(saved_tensors_hooks):
    """Inside, tensors saved for the backward pass are counted as gone, weights excepted."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        self._leaving: deque[torch.Tensor] = deque(maxlen=IN_FLIGHT)
        self._back: deque[torch.Tensor] = deque(maxlen=2)
        super().__init__(self._pack, self._unpack)

    def _pack(self, tensor: torch.Tensor) -> Any:
        stays = tensor.nbytes < SMALLEST or isinstance(tensor, torch.nn.Parameter)
        if stays or tensor.untyped_storage()._cdata in self._weights:
            return tensor
        self._leaving.append(tensor)
        return tensor.shape, tensor.stride(), tensor.dtype, tensor.device

    def _unpack(self, packed: Any) -> torch.Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        shape, stride, dtype, device = packed
        self._leaving.clear()
        tensor = torch.empty_strided(shape, stride, dtype=dtype, device=device)
        self._back.append(tensor)
        return tensor

    def __exit__(self, *args: Any) -> Any:
        self._leaving.clear()
        self._back.clear()
        return super().__exit__(*args)
