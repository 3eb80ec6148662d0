"""The loss from hidden states, a few tokens' logits at a time, whose gradient is found on the way forward.

A frozen output layer needs no gradient of its own, so that one product with it gives the logits and one more the
gradient of what it read: nothing is computed again in the backward pass (Hsu et al. 2024, arXiv:2410.10989, without the
gradient of the weight).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from finetune.spec.loss import IGNORED

TILE_BYTES = 32 * 2**20
"""Of the logits that are there at once, in float32: the processor's caches hold little more."""
CHANGED_LOGITS = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
"""Fields of a configuration whose logits are more than the output layer's."""


class LinearCrossEntropy(torch.autograd.Function):
    """Sum of the negative log-likelihoods of `labels` (n) under logits `hidden @ weight.T + bias`, and how many of them
    have the largest logit.

    hidden (n, h), weight (V, h), bias (V) or None; the sum is float32. Only `hidden` gets a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = hidden.new_zeros((), dtype=torch.float64)
        hits = labels.new_zeros(())
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        size = tile_tokens(len(weight))
        for start in range(0, len(hidden), size):
            here = slice(start, start + size)
            logits = torch.nn.functional.linear(hidden[here], weight, bias).float()
            logits.sub_(logits.amax(-1, keepdim=True))
            own = logits.gather(1, labels[here, None])
            hits += (own == 0).sum()
            sums = logits.exp_().sum(-1, keepdim=True)
            total += (sums.log() - own).double().sum()
            if gradient is not None:  # softmax less one for the label, times the weight
                gradient[here] = (logits.to(weight.dtype) @ weight).div_(sums).sub_(weight[labels[here]])
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(hits)
        return total.float(), hits

    @staticmethod
    def backward(ctx: Any, of_total: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * of_total.to(gradient.dtype), None, None, None


def linear_loss(
    model: PreTrainedModel, batch: dict[str, torch.Tensor], count: torch.Tensor | int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihood per trained token as `next_token_loss` has it, and the share of tokens that are the
    likeliest; `model` is the base model, adapter in it, and `batch` its input with `labels` (rows, tokens)."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    head = model.get_output_embeddings()
    hidden = model.base_model(**inputs, use_cache=False).last_hidden_state[:, :-1]
    labels = batch["labels"][:, 1:]
    if hidden.is_meta:  # a tensor without contents cannot be asked which tokens are trained: the most are all
        hidden, labels = hidden.flatten(0, 1), labels.flatten()
    else:
        trained = labels != IGNORED
        hidden, labels = hidden[trained], labels[trained]
    total, hits = LinearCrossEntropy.apply(hidden.to(head.weight.dtype), head.weight, head.bias, labels)
    count = labels.numel() if count is None else count
    return total / torch.as_tensor(count, device=total.device).clamp(min=1), hits / max(1, labels.numel())


def tile_tokens(words: int) -> int:
    """Tokens whose logits over so many words are there at once."""
    return max(1, TILE_BYTES // (4 * words))


def plain_logits(model_config: PretrainedConfig) -> bool:
    """Whether a model's logits are its output layer's, and nothing else is added to its loss."""
    text = model_config.get_text_config()
    changed = any(getattr(text, field, None) not in (None, 1, 1.0) for field in CHANGED_LOGITS)
    return not changed and not getattr(text, "output_router_logits", False)
