"""Lean norms: forward to the bit as the model's own, gradients to rounding, nothing kept but what they read."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from finetune.spec import norms
from finetune.spec.norms import RMSNorm, use_lean_norms

LEAN = [LlamaRMSNorm, Olmo2RMSNorm, Qwen3RMSNorm]


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def outcome(norm: torch.nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Output, gradient of the input, and bytes kept for the backward pass beside the input and the weight."""
    x, kept = x.clone().requires_grad_(), {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        out = norm(x)
    out.backward(gradient)
    kept.pop(x.untyped_storage().data_ptr(), None)
    kept.pop(norm.weight.untyped_storage().data_ptr(), None)
    return out.detach(), x.grad, sum(kept.values())


@pytest.mark.parametrize("kind", LEAN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tile", [2**20, 3 * 4 * 64], ids=["whole", "three tokens at a time"])
def test_the_same_in_less(kind: type, dtype: torch.dtype, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "TILE_BYTES", tile)
    norm = kind(64, 1e-5).to(dtype).requires_grad_(False)
    norm.weight.copy_(drawn((64,), dtype, 1))
    x, gradient = drawn((2, 7, 64), dtype), drawn((2, 7, 64), dtype, 2)
    wanted, of_x, before = outcome(norm, x, gradient)
    use_lean_norms(norm)
    found, ours, after = outcome(norm, x, gradient)
    assert torch.equal(found, wanted)
    rounding = 1e-5 if dtype is torch.float32 else 2e-2
    assert torch.allclose(ours.float(), of_x.float(), rtol=rounding, atol=rounding)
    assert after == 4 * 14, "a scale a token in float32"
    assert (after < before) == (dtype is torch.bfloat16), "what is float32 already is not copied"


@pytest.mark.parametrize("early", [True, False])
def test_gradient_against_finite_differences(early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64: the tiles are made so too, where the kernel would make float32."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch, "float32", torch.float64)
    x = drawn((3, 8), torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda value: RMSNorm.apply(value, drawn((8,), torch.float64, 1), 1e-5, early), (x,)
    )


def test_a_norm_that_computes_something_else_stays() -> None:
    norm = Gemma2RMSNorm(64)
    use_lean_norms(norm)
    assert "forward" not in vars(norm)
