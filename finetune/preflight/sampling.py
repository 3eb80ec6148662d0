"""Sampling on tensors without contents: transformers' own loop (`GenerationMixin._sample`), its first and last tokens.

A prompt is read at once (prefill), every further token alone (decoding), with the keys and values of all before it in
a cache. The cache grows by a token at each step, and what a step takes beside it does not shrink: of all steps of
decoding the last takes most. It is run with the one before it, whose probabilities are still there; the others are left
out, which the tests hold against all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
    masking_utils,
)
from transformers.generation import GenerationMixin
from transformers.generation import utils as generation

from finetune.preflight.autocast import replaced
from finetune.preflight.tape import CACHE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from finetune.config import RolloutConfig
    from finetune.preflight.step import Step

PREFILL, DECODING = "prefill", "decoding"
RUN = 2
"""Last steps of decoding that are run."""


def sample(step: Step, ids: torch.Tensor, mask: torch.Tensor | None, tokens: int) -> tuple[torch.Tensor, int]:
    """Prompts `ids` (rows, tokens) with `tokens` sampled behind them, and the operations of decoding, which are put on
    the tape too: at most, each step as long as the last. `mask` is None where no prompt is padded."""
    recorder, model, rollout = step.recorder, step.model.get_base_model(), step.spec.config.rollout
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    step.cached = lambda: _tensors(cache)
    with step.autocast(None), _decided(model, step.spec.device.kind, padded=mask is not None):
        with step.without_gradients(PREFILL):
            ids = _next_tokens(model, ids, mask, cache, rollout, 1)
        before, last = recorder.tape.flops, min(RUN, tokens - 1)
        if last:
            with step.without_gradients(DECODING):
                _lengthen(cache, tokens - 1 - last)
                recorder.hold(_tensors(cache), CACHE)
                ids = _longer(ids, tokens - 1 - last)
                mask = None if mask is None else _longer(mask, tokens - last)
                ids = _next_tokens(model, ids, mask, cache, rollout, last)
    step.cached = tuple
    decoding = (recorder.tape.flops - before) * (tokens - 1) // max(last, 1)
    recorder.tape.flops = before + decoding
    return ids, decoding


def _next_tokens(
    model: PreTrainedModel,
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    cache: DynamicCache,
    rollout: RolloutConfig,
    count: int,
) -> torch.Tensor:
    """`ids` (rows, tokens) and `count` sampled tokens behind them; those that `cache` holds are not read again."""
    config = GenerationConfig(do_sample=True)
    config._pad_token_tensor, config._mask_length = None, ids.shape[1]
    positions = model._prepare_position_ids_for_generation(ids, {"attention_mask": mask})
    stop = StoppingCriteriaList([MaxLengthCriteria(ids.shape[1] + count)])
    with replaced(generation, StopCheck=lambda streamer: _Stop(count)):
        return model._sample(
            ids, _processors(rollout), stop, config, attention_mask=mask, position_ids=positions,
            past_key_values=cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip


def _lengthen(cache: DynamicCache, tokens: int) -> None:
    """Makes a cache as if `tokens` more had been decoded; layers with a window keep what fits into it."""
    for layer in cache.layers:
        if not layer.is_initialized:
            continue
        length = layer.get_seq_length() + tokens
        held = min(length, layer.sliding_window - 1) if layer.is_sliding else length
        for name in ("keys", "values"):
            old = getattr(layer, name)
            setattr(layer, name, old.new_zeros((*old.shape[:2], held, old.shape[3])))
        if layer.is_sliding:
            layer.cumulative_length = length


def _longer(tensor: torch.Tensor, tokens: int) -> torch.Tensor:
    return torch.cat([tensor, tensor.new_ones((len(tensor), tokens))], dim=1)


def _tensors(cache: DynamicCache) -> Iterator[torch.Tensor]:
    """Keys and values of all layers (rows, heads, tokens, head size)."""
    for layer in cache.layers:
        if layer.is_initialized:
            yield from (layer.keys, layer.values)


def _processors(rollout: RolloutConfig) -> LogitsProcessorList:
    """What stands between logits and probabilities, in `generate`'s order."""
    found = LogitsProcessorList()
    if rollout.temperature != 1:
        found.append(TemperatureLogitsWarper(rollout.temperature))
    if rollout.top_p < 1:
        found.append(TopPLogitsWarper(rollout.top_p))
    return found


def _decided(model: PreTrainedModel, target: str, *, padded: bool) -> ExitStack:
    """Answers what the loop and its masks ask of contents, and of the device where that is not the one meant."""
    stack = ExitStack()
    if model.device.type == "meta":
        stack.enter_context(replaced(masking_utils, _ignore_causal_mask_sdpa=lambda *_, **__: not padded))
        if target == "cpu":  # elsewhere decoding takes another product of experts
            stack.enter_context(replaced(GenerationMixin, _optimize_model_for_decode=lambda model: nullcontext()))
    return stack


class _Stop:
    """Ends sampling after so many tokens; whether every row is done stands in no tensor without contents."""

    def __init__(self, tokens: int) -> None:
        self._left = tokens

    def __call__(self, unfinished: torch.Tensor, tokens: torch.Tensor, length: int) -> bool:
        self._left -= 1
        return self._left == 0

    def finish(self) -> int:
        """Steps to undo."""
        return 0
