"""FlashAttention-2, of the flash-attn package or PyTorch's own by variable length, on the meta device, where there is
no card."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers.integrations import flash_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from finetune.preflight.autocast import replaced
from finetune.preflight.flops import attention_flops
from finetune.preflight.kernels import Attention
from finetune.spec import varlen

if TYPE_CHECKING:
    from finetune.preflight.tape import Tape

NAME = "flash_attention_2"


@contextmanager
def flash_stood_in(tape: Tape, *, padded: bool) -> Iterator[None]:
    """While it is entered, FlashAttention-2 makes its tensors and nothing else; `padded` says whether batches are."""
    masks = ALL_MASK_ATTENTION_FUNCTIONS._global_mapping
    mask = masks[NAME]
    # Where nothing is padded the real one finds that out from the mask's contents, and gives none.
    masks[NAME] = lambda *_, attention_mask=None, **__: attention_mask if padded else None
    try:
        with replaced(flash_attention, _flash_attention_forward=_forward(tape)):
            yield
    finally:
        masks[NAME] = mask


@contextmanager
def varlen_stood_in(tape: Tape, target: str) -> Iterator[None]:
    """While it is entered, attention by variable length does not ask a tensor for its rows' lengths: of a traced pack
    they are known (`Batch.tensors`). On a card it makes its tensors and nothing else."""

    def forward(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        packs, rows = lengths.shape
        tokens = q.shape[2]
        if target == "cpu":
            half = -(-tokens // rows)
            return varlen.row_by_row(q, k, v, [[half, tokens - half]] * packs, scale)
        flops = attention_flops(q, k, causal=True) // rows
        return Attention.apply(q, k, v, None, "flash", tape, flops).transpose(1, 2)

    with replaced(varlen, packed_attention=forward):
        yield


def _forward(tape: Tape) -> Callable[..., torch.Tensor]:
    def forward(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attention_mask: torch.Tensor | None,
        target_dtype: torch.dtype | None = None, sliding_window: int | None = None, **_: Any,
    ) -> torch.Tensor:  # fmt: skip
        """`_flash_attention_forward`: q (b, s, h, d), k and v (b, s, h or fewer, d), in 16 bits."""
        q, k, v = (x.to(target_dtype) if target_dtype else x for x in (q, k, v))
        if attention_mask is not None:  # padding is cut out, and put back into the output
            q, k, v = (x.clone() for x in (q, k, v))
        heads_first = [x.transpose(1, 2) for x in (q, k, v)]
        flops = attention_flops(heads_first[0], heads_first[1], causal=True, window=sliding_window)
        out = Attention.apply(*heads_first, None, "flash", tape, flops).transpose(1, 2)
        return out.clone() if attention_mask is not None else out

    return forward
