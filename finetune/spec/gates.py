"""Gated feed-forward parts (SwiGLU, GeGLU) that keep gate and up for their backward pass, and not the gate's activation
beside them.

Autograd keeps all three, each as wide as the intermediate size: the widest that a layer keeps. Here the activation is
computed once more where the gradient is (Hsu et al. 2024, arXiv:2410.10989, do so in one kernel). Output and gradients
are those of the model's own part, to the bit, since the same operations make them.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional

aten = torch.ops.aten


class Activation(NamedTuple):
    """A function of the gate, and its backward pass, which writes into the gradient that it is given."""

    forward: Callable[[torch.Tensor], torch.Tensor]
    backward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _gelu(approximate: str) -> Activation:
    def backward(gradient: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return aten.gelu_backward.grad_input(gradient, gate, approximate=approximate, grad_input=gradient)

    return Activation(functools.partial(functional.gelu, approximate=approximate), backward)


def _silu_backward(gradient: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    return aten.silu_backward.grad_input(gradient, gate, grad_input=gradient)


ACTIVATIONS = (Activation(functional.silu, _silu_backward), _gelu("tanh"), _gelu("none"))
"""Those that are known."""


class Gated(torch.autograd.Function):
    """activation(gate) * up, element by element; gate and up (..., i)."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, activation: Activation) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return _product(activation.forward(gate), up)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        gate, up = ctx.saved_tensors
        of_up = _product(ctx.activation.forward(gate), gradient)
        return ctx.activation.backward(gradient * up, gate), of_up, None


def _product(new: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return new.mul_(other) if new.dtype == other.dtype else new * other


def use_lean_gates(model: torch.nn.Module) -> None:
    """Has every feed-forward part of a model that computes what `Gated` computes, to the bit, compute it so."""
    lean: dict[type, type | None] = {}
    for module in model.modules():
        kind = type(module)
        if not kind.__name__.endswith("MLP"):
            continue
        if kind not in lean:
            lean[kind] = _lean(kind, getattr(module, "act_fn", None) or getattr(module, "activation_fn", None))
        module.__class__ = lean[kind] or kind


def _lean(kind: type[torch.nn.Module], activation: Any) -> type[torch.nn.Module] | None:
    """The same class with our forward pass: a class, so that compiled layers see that their parts are alike. None
    where what it makes of numbers is not what ours makes of them."""
    for found in ACTIVATIONS:
        for forward in (_two_products(found), _one_product(found)):
            if _same(kind, activation, forward):
                return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    return None


def _two_products(activation: Activation) -> Callable[..., torch.Tensor]:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(Gated.apply(self.gate_proj(x), self.up_proj(x), activation))

    return forward


def _one_product(activation: Activation) -> Callable[..., torch.Tensor]:
    """Gate and up side by side from one projection, as in Phi-3."""

    def forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up_proj(hidden_states).chunk(2, dim=-1)
        return self.down_proj(Gated.apply(gate, up, activation))

    return forward


def _same(kind: type[torch.nn.Module], activation: Any, forward: Callable[..., torch.Tensor]) -> bool:
    """Whether `forward` makes of numbers what the class's own makes of them, to the bit."""
    widths = {"gate_proj": (32, 64), "up_proj": (32, 64), "gate_up_proj": (32, 128), "down_proj": (64, 32)}
    with torch.device("cpu"), torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        part = kind.__new__(kind)
        torch.nn.Module.__init__(part)
        for name, (inputs, outputs) in widths.items():
            part.add_module(name, torch.nn.Linear(inputs, outputs))
        try:
            part.act_fn = part.activation_fn = copy.deepcopy(activation)
            given = torch.randn(2, 32, 32)
            return all(
                torch.equal(forward(part.to(dtype), given.to(dtype)), kind.forward(part, given.to(dtype)))
                for dtype in (torch.float32, torch.bfloat16)
            )
        except Exception:  # made otherwise, or with other parts
            return False
