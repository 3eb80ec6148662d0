"""Autocast on the meta device, which torch refuses: its casts, done where torch would do them.

Follows `autocast_mode.h`: one list of functions computes in the 16-bit type, another in float32; a float32 weight that
is trained is cast once and the cast kept until autocast ends, so that it is there for the backward pass once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

LOWER = {
    torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.addbmm, torch.mv, torch.einsum,
    torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.__rmatmul__, torch.Tensor.mm, torch.Tensor.bmm,
    functional.linear, torch._C._nn.linear, functional.scaled_dot_product_attention, functional.conv1d,
}  # fmt: skip
"""Functions that compute in the 16-bit type (AT_FORALL_LOWER_PRECISION_FP)."""
FLOAT = {
    torch.pow, torch.Tensor.pow, torch.Tensor.__pow__, torch.rsqrt, torch.Tensor.rsqrt, torch.exp, torch.Tensor.exp,
    torch.log, torch.Tensor.log, torch.softmax, torch.Tensor.softmax, functional.softmax, functional.log_softmax,
    torch.log_softmax, torch.cumsum, torch.Tensor.cumsum, torch.sum, torch.Tensor.sum, torch.prod, torch.Tensor.prod,
    functional.layer_norm, functional.cross_entropy, functional.nll_loss, functional.softplus, torch.norm,
}  # fmt: skip
"""Functions that compute in float32 (AT_FORALL_FP32 and its kin), where no type is asked for."""


class EmulatedAutocast(TorchFunctionMode):
    """Casts the arguments of listed functions while it is entered."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self.enabled = True
        self._casts: dict[int, torch.Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.enabled:
            return func(*args, **kwargs)
        if func in LOWER and kwargs.get("out") is None:
            args = [self._lower(value) for value in args]
            kwargs = {name: self._lower(value) for name, value in kwargs.items()}
        elif func in FLOAT and kwargs.get("dtype") is None:
            args = [_float(value) for value in args]
            kwargs = {name: _float(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)

    def _lower(self, value: Any) -> Any:
        if not (isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != self._dtype):
            return value
        if not (value.is_leaf and value.requires_grad and value.dtype == torch.float32):
            return value.to(self._dtype)
        if id(value) not in self._casts:
            self._casts[id(value)] = value.to(self._dtype)
        return self._casts[id(value)]


def _float(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    return value


@contextmanager
def emulated_autocast(dtype: torch.dtype | None) -> Iterator[None]:
    """Autocast to `dtype` for meta tensors, none where that is None. Code that asks, or turns it off, is served."""
    mode = EmulatedAutocast(dtype) if dtype else None
    real = torch.autocast

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
        return (
            _switched(mode, kwargs.get("enabled", True))
            if device_type == "meta"
            else real(device_type, *args, **kwargs)
        )

    names = {
        "is_autocast_enabled": lambda device_type=None: bool(mode and mode.enabled),
        "get_autocast_dtype": lambda device_type=None: dtype,
        "autocast": autocast,
    }
    with replaced(torch, **names), mode or nullcontext():
        yield


@contextmanager
def _switched(mode: EmulatedAutocast | None, enabled: bool) -> Iterator[None]:
    if mode is None:
        yield
        return
    before, mode.enabled = mode.enabled, enabled
    yield
    mode.enabled = before


@contextmanager
def replaced(module: Any, **names: Any) -> Iterator[None]:
    """Gives `module` other values under `names` while its body runs."""
    before = {name: getattr(module, name) for name in names}
    for name, value in names.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)
