"""RMS norms that keep what they read as it is for their backward pass, and no copy of it in float32.

transformers' modules turn their input into float32 and multiply that: autograd keeps the copy, and the backward pass
makes five more. Here the forward pass rounds exactly as theirs does, the backward pass is written out (Zhang and
Sennrich 2019, arXiv:1910.07467), and both go over a few tokens at a time. The weight is frozen and gets no gradient.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

TILE_BYTES = 64 * 2**20
"""Of the tokens that are worked on at once, in float32."""


class RMSNorm(torch.autograd.Function):
    """x / sqrt(mean(x²) + eps) * weight over the last of x's dimensions; x (..., h), weight (h).

    `early`: the quotient is rounded to x's type before the weight multiplies it, as in Llama; in OLMo-2 afterwards.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, early: bool) -> torch.Tensor:
        flat, out = x.reshape(-1, x.shape[-1]), torch.empty_like(x, memory_format=torch.contiguous_format)
        rows, scales = out.view(flat.shape), flat.new_empty((len(flat), 1), dtype=torch.float32)
        for here in _tiles(flat):
            part = flat[here].float()
            torch.rsqrt(part.pow(2).mean(-1, keepdim=True) + eps, out=scales[here])
            part = part * scales[here]
            rows[here] = weight * (part.to(x.dtype) if early else part)
        ctx.save_for_backward(x, weight, scales)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        x, weight, scales = ctx.saved_tensors
        flat, of_out, found = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, x.shape[-1]), torch.empty_like(x)
        rows = found.view(flat.shape)
        for here in _tiles(flat):
            normed = flat[here].float() * scales[here]
            of_normed = (of_out[here] * weight).float()
            normed *= (of_normed * normed).mean(-1, keepdim=True)
            rows[here] = of_normed.sub_(normed).mul_(scales[here])
        return found, None, None, None


def _tiles(flat: torch.Tensor) -> list[slice]:
    size = max(1, TILE_BYTES // (4 * flat.shape[-1]))
    if flat.shape[0] <= size:  # not asked as a range: a compiled layer takes any number of tokens
        return [slice(None)]
    return [slice(start, start + size) for start in range(0, len(flat), size)]


def use_lean_norms(model: torch.nn.Module) -> None:
    """Has every norm of a model that computes what `RMSNorm` computes, to the bit, compute it so."""
    for module in model.modules():
        if (lean := _lean(type(module))) is not None:
            module.__class__ = lean


@functools.cache
def _lean(kind: type[torch.nn.Module]) -> type[torch.nn.Module] | None:
    """The same class with our forward pass: a class, so that compiled layers see that their norms are alike."""
    early = _rounds_early(kind)
    if early is None:
        return None

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        eps = self.variance_epsilon if hasattr(self, "variance_epsilon") else self.eps
        return RMSNorm.apply(x, self.weight, eps, early)

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


@functools.cache
def _rounds_early(kind: type[torch.nn.Module]) -> bool | None:
    """Which of the two a class of norms computes, seen from what one of it makes of numbers; None where neither."""
    if not kind.__name__.endswith("RMSNorm"):
        return None
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator).bfloat16() for shape in ((64, 32), (32,)))
    with torch.device("cpu"), torch.no_grad():
        try:
            norm = kind(32, 1e-5).bfloat16()
            norm.weight.copy_(weight)
            wanted = norm(x)
        except (TypeError, AttributeError, RuntimeError):  # made otherwise, or with other parts
            return None
    fits = [early for early in (True, False) if torch.equal(RMSNorm.apply(x, weight, 1e-5, early), wanted)]
    return fits[0] if fits else None
