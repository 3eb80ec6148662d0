"""Operations of anything that runs, counted: torch's counter with rules for the kernels that it passes over in silence.

torch's `FlopCounterMode` gives 0 for a kernel that it has no rule for. On a CPU these are an LSTM, attention by
`scaled_dot_product_attention`, and a TransformerEncoderLayer in evaluation: a model made of them seems to be free.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from finetune.sequence.costs import attention, feed_forward, mixing, pairs

MAKES_PRODUCTS = (
    "_scaled_dot_product", "_flash_attention", "_efficient_attention", "_transformer_encoder_layer", "rnn", "lstm",
    "gru", "flex_attention", "addbmm", "_grouped_mm", "_int_mm", "_scaled_mm",
)  # fmt: skip
"""Parts of the names of kernels that multiply matrices."""


class SilentKernel(RuntimeError):
    """A kernel that makes products has no rule: a count without it would be too low."""


class _Counter(FlopCounterMode):
    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        name = func_packet.__name__
        if func_packet not in self.flop_registry and any(part in name for part in MAKES_PRODUCTS):
            raise SilentKernel(f"{func_packet}: makes products, and no rule counts them")
        return super()._count_flops(func_packet, out, args, kwargs)


def count_flops(run: Callable[[], object]) -> int:
    """Operations of the products that `run` makes. Raises SilentKernel where it meets a kernel that no rule counts."""
    with _Counter(display=False, custom_mapping=_RULES) as counter:
        run()
    return counter.get_total_flops()


def torch_count(run: Callable[[], object]) -> int:
    """The same by torch's counter alone."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def _attend(q: Any, k: Any, v: Any, dropout: float = 0.0, causal: bool = False, **_: Any) -> int:
    """q (b, h, n, s), k and v (b, h, m, s), as shapes."""
    (batch, heads, queries, size), keys = q, k[2]
    return batch * sum(mixing(pairs(queries, keys, causal=causal), heads, size, v[3]).values())


def _attend_backward(
    grad: Any, q: Any, k: Any, v: Any, out: Any, sums: Any, dropout: float, causal: bool, **_: Any
) -> int:
    """Five products for the forward's two: the scores are made again."""
    return _attend(q, k, v, dropout, causal) * 5 // 2


def _recur(x: Any, w_input: Any, w_state: Any, *_: Any, **__: Any) -> int:
    """mkldnn_rnn_layer: x (n, b, d), weights (gates x hidden, d) and (gates x hidden, hidden)."""
    tokens, batch, width = x
    return 2 * tokens * batch * w_state[0] * (width + w_state[1])


def _recur_backward(x: Any, w_input: Any, w_state: Any, *_: Any, **__: Any) -> int:
    return 2 * _recur(x, w_input, w_state)


def _encode(x: Any, width: int, heads: int, *rest: Any, **_: Any) -> int:
    """_transformer_encoder_layer_fwd: x (b, n, d); the fifteenth argument is the feed-forward's first weight (i, d)."""
    (batch, tokens, _), inner = x, rest[11][0]
    return batch * (attention(tokens, width, heads).flops + feed_forward(tokens, width, inner).flops)


_aten = torch.ops.aten
_RULES: dict[Any, Callable[..., int]] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attend,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attend_backward,
    _aten.mkldnn_rnn_layer: _recur,
    _aten.mkldnn_rnn_layer_backward: _recur_backward,
    _aten._transformer_encoder_layer_fwd: _encode,
}
