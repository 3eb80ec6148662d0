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
    torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.addbmm, torch.einsum, torch.Tensor.matmul,
    torch.Tensor.__matmul__, torch.Tensor.__rmatmul__, torch.Tensor.mm, torch.Tensor.bmm, functional.linear,
    functional.scaled_dot_product_attention, functional.conv1d,
}  # fmt: skip
"""Functions that compute in the 16-bit type (AT_FORALL_LOWER_PRECISION_FP), or whose parts do."""
FLOAT = {functional.cross_entropy, functional.nll_loss, functional.mse_loss}
"""Functions that compute in float32 on every device."""
FLOAT_ON_CUDA = {
    torch.pow, torch.Tensor.pow, torch.Tensor.__pow__, torch.rsqrt, torch.Tensor.rsqrt, torch.exp, torch.Tensor.exp,
    torch.log, torch.Tensor.log, torch.logsumexp, torch.Tensor.logsumexp, functional.layer_norm, functional.rms_norm,
    functional.softplus,
}  # fmt: skip
"""Those that do on a card (AT_FORALL_FP32)."""
SUMS_ON_CUDA = {
    torch.softmax, torch.Tensor.softmax, functional.softmax, torch.log_softmax, torch.Tensor.log_softmax,
    functional.log_softmax, torch.cumsum, torch.Tensor.cumsum, torch.sum, torch.Tensor.sum, torch.norm,
    torch.Tensor.norm, torch.linalg.vector_norm, torch.linalg.norm,
}  # fmt: skip
"""Those that read any type and are asked for float32 (AT_FORALL_FP32_SET_OPT_DTYPE), where no type was asked for."""


class EmulatedAutocast(TorchFunctionMode):
    """While entered, casts the arguments of listed functions as autocast to `dtype` on `target` (cuda or cpu)."""

    def __init__(self, dtype: torch.dtype, target: str) -> None:
        super().__init__()
        self._dtype = dtype
        self._float = FLOAT | FLOAT_ON_CUDA if target == "cuda" else FLOAT
        self._sums = SUMS_ON_CUDA if target == "cuda" else set()
        self.enabled = True
        self._casts: dict[int, torch.Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.enabled:
            return func(*args, **kwargs)
        if func in LOWER and kwargs.get("out") is None:
            args = [self._lower(value) for value in args]
            kwargs = {name: self._lower(value) for name, value in kwargs.items()}
        elif func in self._float:
            args = [_float(value) for value in args]
            kwargs = {name: _float(value) for name, value in kwargs.items()}
        elif func in self._sums and any(_is_half(value) for value in (*args, *kwargs.values())):
            kwargs = {**kwargs, "dtype": kwargs.get("dtype") or torch.float32}
        return func(*args, **kwargs)

    def _lower(self, value: Any) -> Any:
        if not (isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != self._dtype):
            return value
        if not (value.is_leaf and value.requires_grad and value.dtype == torch.float32):
            return value.to(self._dtype)
        if id(value) not in self._casts:
            self._casts[id(value)] = value.to(self._dtype)
        return self._casts[id(value)]


def _is_half(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16)


def _float(value: Any) -> Any:
    return value.float() if _is_half(value) else value


@contextmanager
def emulated_autocast(dtype: torch.dtype | None, target: str) -> Iterator[None]:
    """Autocast to `dtype` for meta tensors that stand for those of `target` (cuda or cpu), none where `dtype` is None.
    Code that asks for it, or turns it off, is served."""
    mode = EmulatedAutocast(dtype, target) if dtype else None
    real = torch.autocast

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
        return (
            _switched(mode, kwargs.get("enabled", True))
            if device_type == "meta"
            else real(device_type, *args, **kwargs)
        )

    names = {
        # Who names no device asks of CUDA, as PEFT does: on the CPU it casts its input itself.
        "is_autocast_enabled": lambda device_type="cuda": bool(
            mode and mode.enabled and device_type in ("meta", target)
        ),
        "get_autocast_dtype": lambda device_type: dtype,
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
    try:
        yield
    finally:
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
