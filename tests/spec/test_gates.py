"""Lean gates: outputs and gradients to the bit as the model's own, a third less kept of the feed-forward part."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers.models.gemma2.modeling_gemma2 import Gemma2MLP
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.olmo2.modeling_olmo2 import Olmo2MLP
from transformers.models.phi.modeling_phi import PhiMLP
from transformers.models.phi3.modeling_phi3 import Phi3MLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

from finetune.spec.gates import ACTIVATIONS, Gated, use_lean_gates

WIDTHS = {"hidden_size": 32, "intermediate_size": 96, "mlp_bias": False}


def part(kind: type, activation: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    config = SimpleNamespace(**WIDTHS, hidden_act=activation, hidden_activation=activation)
    torch.manual_seed(0)
    return kind(config).to(dtype).requires_grad_(False)


def outcome(module: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Output, gradient of the input, and values as wide as the intermediate size kept for the backward pass."""
    dtype, kept = next(module.parameters()).dtype, {}
    generator = torch.Generator().manual_seed(1)
    x, gradient = (torch.randn((2, 7, 32), generator=generator).to(dtype) for _ in range(2))
    x.requires_grad_()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 3:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        out = module(x)
    out.backward(gradient)
    return out.detach(), x.grad, sum(kept.values()) // (2 * 7 * 96)


@pytest.mark.parametrize(
    ("kind", "activation"),
    [
        (LlamaMLP, "silu"), (Qwen3MLP, "silu"), (Olmo2MLP, "silu"), (Phi3MLP, "silu"), (LlamaMLP, "swish"),
        (Gemma2MLP, "gelu_pytorch_tanh"), (LlamaMLP, "gelu"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_same_to_the_bit_in_less(kind: type, activation: str, dtype: torch.dtype) -> None:
    module = part(kind, activation, dtype)
    out, gradient, before = outcome(module)
    use_lean_gates(module)
    found, ours, after = outcome(module)
    assert torch.equal(found, out) and torch.equal(ours, gradient)
    assert (before, after) == (3, 2)


@pytest.mark.parametrize("number", range(len(ACTIVATIONS)))
def test_gradients_against_finite_differences(number: int) -> None:
    generator = torch.Generator().manual_seed(0)
    gate, up = (torch.randn((3, 8), generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: Gated.apply(a, b, ACTIVATIONS[number]), (gate, up))


def test_gradients_that_others_hold_stay_as_they_are() -> None:
    gate, up = (torch.full((4,), value, requires_grad=True) for value in (0.5, 2.0))
    gradient = torch.ones(4)
    Gated.apply(gate, up, ACTIVATIONS[0]).backward(gradient)
    assert torch.equal(gradient, torch.ones(4)) and torch.equal(up, torch.full((4,), 2.0))


def test_wider_up_than_gate() -> None:
    gate, up = torch.ones(4, dtype=torch.bfloat16, requires_grad=True), torch.ones(4, requires_grad=True)
    out = Gated.apply(gate, up, ACTIVATIONS[0])
    out.sum().backward()
    assert (out.dtype, gate.grad.dtype, up.grad.dtype) == (torch.float32, torch.bfloat16, torch.float32)


class Doubled(LlamaMLP):
    """Another model's part, which computes something else."""

    def forward(self, x: torch.Tensor) -> Any:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("kind", "activation"), [(Doubled, "silu"), (LlamaMLP, "relu"), (LlamaMLP, "gelu_python_tanh"), (LlamaMLP, "xielu")]
)
def test_a_part_that_computes_something_else_stays(kind: type, activation: str) -> None:
    module = part(kind, activation)
    use_lean_gates(module)
    assert type(module) is kind


def test_a_part_without_gates_stays() -> None:
    module = PhiMLP(SimpleNamespace(**WIDTHS, hidden_act="gelu_new"))
    use_lean_gates(module)
    assert type(module) is PhiMLP
