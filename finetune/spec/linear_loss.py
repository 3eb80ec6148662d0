"""The loss from hidden states, a few tokens' logits at a time, whose gradient is found on the way forward.

A frozen output layer needs no gradient of its own, so that one product with it gives the logits and one more the
gradient of what it read: nothing is computed again in the backward pass (Hsu et al. 2024, arXiv:2410.10989, without the
gradient of the weight).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import PretrainedConfig, PreTrainedModel

from finetune.spec.loss import IGNORED

TILE_BYTES = 32 * 2**20
"""Of the logits that are there at once, in float32: the processor's caches hold little more."""
CHANGED_LOGITS = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
"""Fields of a configuration whose logits are more than the output layer's."""


class LinearCrossEntropy(torch.autograd.Function):
    """Sums over n tokens with logits `hidden @ weight.T + bias`: the negative log-likelihoods of `labels` (n), how many
    of these have the largest logit, and the entropies in nats, which are no number where no gradient is asked for.

    hidden (n, h), weight (V, h), bias (V) or None; sums are float32. Only `hidden` gets a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        total, entropies = (hidden.new_zeros((), dtype=torch.float64) for _ in range(2))
        hits = labels.new_zeros(())
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        size = tile_tokens(len(weight))
        for start in range(0, len(hidden), size):
            here = slice(start, start + size)
            logits = torch.nn.functional.linear(hidden[here], weight, bias).float()
            largest = logits.amax(-1, keepdim=True)
            own = logits.sub_(largest).gather(1, labels[here, None])
            hits += (own == 0).sum()
            sums = logits.exp_().sum(-1, keepdim=True)
            total += (sums.log() - own).double().sum()
            if gradient is None:
                continue
            mean_weight = (logits.to(weight.dtype) @ weight).div_(sums)  # under the softmax
            # The mean logit is the product with the mean weight: no pass over the logits is needed for the entropy.
            mean_logit = torch.linalg.vecdot(hidden[here].float(), mean_weight.float())
            if bias is not None:
                mean_logit += (logits @ bias.float()) / sums[:, 0]
            entropies += (sums.log() + largest).double().sum() - mean_logit.double().sum()
            gradient[here] = mean_weight.sub_(weight[labels[here]])
        ctx.save_for_backward(gradient)
        if gradient is None:
            entropies.fill_(torch.nan)
        entropies = entropies.float()
        ctx.mark_non_differentiable(hits, entropies)
        return total.float(), hits, entropies

    @staticmethod
    def backward(ctx: Any, of_total: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * of_total.to(gradient.dtype), None, None, None


class Scored(NamedTuple):
    """What is said of a batch: `loss` is that of `next_token_loss`; the others are means over its trained tokens,
    `mean_token_accuracy` of those whose label is the likeliest."""

    loss: torch.Tensor
    mean_token_accuracy: torch.Tensor
    entropy: torch.Tensor


def linear_loss(
    model: PreTrainedModel, batch: dict[str, torch.Tensor], count: torch.Tensor | int | None = None
) -> Scored:
    """Scores a batch: `model` is the base model, adapter in it, and `batch` its input with `labels` (rows, tokens)."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    head = model.get_output_embeddings()
    hidden = model.base_model(**inputs, use_cache=False).last_hidden_state[:, :-1]
    labels = batch["labels"][:, 1:]
    if hidden.is_meta:  # a tensor without contents cannot be asked which tokens are trained: the most are all
        hidden, labels = hidden.flatten(0, 1), labels.flatten()
    else:
        trained = labels != IGNORED
        hidden, labels = hidden[trained], labels[trained]
    total, hits, entropies = LinearCrossEntropy.apply(hidden.to(head.weight.dtype), head.weight, head.bias, labels)
    trained = max(1, labels.numel())
    count = labels.numel() if count is None else count
    loss = total / torch.as_tensor(count, device=total.device).clamp(min=1)
    return Scored(loss, hits / trained, entropies / trained)


def tile_tokens(words: int) -> int:
    """Tokens whose logits over so many words are there at once."""
    return max(1, TILE_BYTES // (4 * words))


def plain_logits(model_config: PretrainedConfig) -> bool:
    """Whether a model's logits are its output layer's, and nothing else is added to its loss."""
    text = model_config.get_text_config()
    changed = any(getattr(text, field, None) not in (None, 1, 1.0) for field in CHANGED_LOGITS)
    return not changed and not getattr(text, "output_router_logits", False)
