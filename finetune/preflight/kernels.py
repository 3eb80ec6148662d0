"""What kernels do to memory that tracing on the meta device does not show.

Two kinds. Buffers that an operation takes for itself and gives back before it returns: no dispatch shows them, so they
stand here in a table, each with its source. And kernels that torch chooses by device, of which the meta device has
another or none: attention, and the softmax that reads 16-bit numbers and writes 32-bit ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from finetune.preflight.flops import attention_flops

if TYPE_CHECKING:
    from finetune.preflight.tape import Tape


class Buffer(NamedTuple):
    """Bytes that an operation takes beside its result and gives back when it returns: before the result exists
    (`first`) or after, and for what where not for the same thing as the result."""

    size: int
    first: bool
    cause: str | None = None


def buffers_of(operation: str, args: tuple, result: Any, target: str) -> list[Buffer]:
    """What `operation` takes for itself on a `target` (cuda or cpu)."""
    rule = _RULES.get(operation)
    return rule(args, result, target) if rule else []


def _gemm_4bit(args: tuple, result: torch.Tensor, target: str) -> list[Buffer]:
    """bitsandbytes' 4-bit product expands the weight to the type of its input (`_dequant_linear_fallback`)."""
    rows, columns = args[2]
    return [Buffer(rows * columns * result.element_size(), True, "dequantised weight")]


def _softmax_backward(args: tuple, result: torch.Tensor, target: str) -> list[Buffer]:
    """`softmax_backward_cuda_out` (SoftMax.cu) multiplies gradient and output before its kernel runs."""
    return [Buffer(args[0].numel() * args[0].element_size(), False)] if target == "cuda" else []


_RULES: dict[str, Callable[[tuple, Any, str], list[Buffer]]] = {
    "bitsandbytes.gemm_4bit.default": _gemm_4bit,
    "aten._softmax_backward_data.default": _softmax_backward,
}


def sdpa_kernel(target: str, capability: tuple[int, int] | None, dtype: torch.dtype, masked: bool) -> str:
    """Which kernel `scaled_dot_product_attention` takes (`sdp_utils.cpp`): flash needs Ampere, 16 bits and no mask."""
    if target == "cpu":
        return "cpu"
    ampere = capability is None or capability >= (8, 0)
    return "flash" if ampere and dtype.itemsize == 2 and not masked else "efficient"


class Attention(torch.autograd.Function):
    """An attention kernel's tensors without its arithmetic: the output and log-sum-exp that it saves, and what its
    backward pass takes. q (b, h, s, d), k and v (b, h or fewer, s, d), mask (b, 1, s, s) or None."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, kernel: str, tape: Tape, flops: int
    ) -> torch.Tensor:
        batch, heads, tokens, _ = q.shape
        out = _by_token(q, v.shape[-1]) if kernel == "efficient" or v.shape[-1] != q.shape[-1] else torch.empty_like(q)
        rows = _round_up(tokens, 32) if kernel == "efficient" else tokens
        sums = q.new_empty((batch, heads, rows), dtype=torch.float32)
        ctx.kernel, ctx.tape, ctx.flops = kernel, tape, flops
        tape.flops += flops
        ctx.save_for_backward(q, k, v, out, sums, mask)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
        q, k, v, *_ = ctx.saved_tensors
        ctx.tape.flops += ctx.flops * 5 // 2
        held = _backward_buffers(ctx.kernel, q, k)
        like = _by_token if ctx.kernel == "efficient" else torch.empty_like
        gradients = tuple(like(x) for x in (q, k, v))
        del held
        return *gradients, None, None, None, None


def _by_token(x: torch.Tensor, size: int | None = None) -> torch.Tensor:
    """An empty tensor of x's shape (b, h, s, d) that lies in memory token by token; the other kernels follow q."""
    batch, heads, tokens, width = x.shape
    return x.new_empty((batch, tokens, heads, size or width)).transpose(1, 2)


def _backward_buffers(kernel: str, q: torch.Tensor, k: torch.Tensor) -> list[torch.Tensor]:
    """Float32 sums of q's gradient, row sums, and for grouped heads k's and v's gradients of every head.

    `flash_api.cpp` (mha_bwd) rounds tokens to 128 and head sizes to 32; `attention_backward.cu` to blocks of 64.
    """
    batch, heads, tokens, size = q.shape
    if kernel == "cpu":
        return []
    rows = _round_up(tokens, 128 if kernel == "flash" else 64)
    columns = _round_up(size, 32 if kernel == "flash" else 64)
    held = [q.new_empty((batch, heads, rows), dtype=torch.float32)]
    held.append(q.new_empty((batch, rows, heads, columns), dtype=torch.float32))
    if k.shape[1] != heads:
        held += [k.new_empty((batch, tokens, heads, size)) for _ in range(2)]
    return held


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


class GroupedProduct(torch.autograd.Function):
    """A product of rows (n, i) with the weights (experts, i, o) of the experts that they are sorted by; `ends`
    (experts) says where the rows of each end."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(rows if ctx.needs_input_grad[1] else None, weight, ends)
        return rows.new_empty((rows.shape[0], weight.shape[-1]))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
        saved = ctx.saved_tensors  # alive until both gradients are there
        weights = torch.empty_like(saved[1]) if ctx.needs_input_grad[1] else None
        return gradient.new_empty((gradient.shape[0], saved[1].shape[-2])), weights, None


def grouped_mm(rows: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor) -> torch.Tensor:
    """Stands in for transformers' choice among products that the meta device has for one type only."""
    return GroupedProduct.apply(rows.to(weight.dtype), weight, offs)


class Kernels(TorchFunctionMode):
    """Replaces, on meta tensors, the functions whose kernel the target would choose otherwise."""

    def __init__(self, target: str, capability: tuple[int, int] | None, tape: Tape) -> None:
        super().__init__()
        self._target, self._capability, self._tape = target, capability, tape

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention and args[0].is_meta:
            return self._attend(*args, **kwargs)
        if func is functional.softmax and self._reads_half(*args, **kwargs):
            return torch.ops.aten._softmax(args[0], args[1] if len(args) > 1 else kwargs["dim"], True)
        if func is functional.dropout and self._target == "cuda":
            return _dropout(*args, **kwargs)
        return func(*args, **kwargs)

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        kernel = sdpa_kernel(self._target, self._capability, q.dtype, attn_mask is not None)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            # Every kernel that takes a mask takes it as numbers to add.
            attn_mask = torch.where(attn_mask, q.new_zeros(()), q.new_full((), float("-inf")))
        groups = q.shape[1] // k.shape[1]
        if kernel == "efficient" and groups > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        flops = attention_flops(q, k, causal=bool(kwargs.get("is_causal")))
        return Attention.apply(q, k, v, attn_mask, kernel, self._tape, flops)

    def _reads_half(self, x: torch.Tensor, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> bool:
        """CUDA's softmax turns float16 into float32 on the way (`softmax`, SoftMax.cpp); bfloat16 is cast before."""
        return self._target == "cuda" and x.is_meta and x.dtype == torch.float16 and dtype == torch.float32


def _dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """CUDA's kernel keeps a mask of one byte an element (`native_dropout`); elsewhere it is as wide as the input."""
    return torch.native_dropout(x, p, training)[0] if p > 0 and training else x
