"""Two updates of the run that is described, on tensors without contents, with every byte followed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from transformers import masking_utils
from transformers.integrations import moe
from trl.kernels import chunked_logprob

from finetune.preflight import flash
from finetune.preflight.autocast import replaced
from finetune.preflight.hardware import HANDLES, workspace_bytes
from finetune.preflight.kernels import grouped_mm
from finetune.preflight.loading import load, load_shared
from finetune.preflight.preference import PreferenceStep
from finetune.preflight.rollout import RolloutStep
from finetune.preflight.step import Batch, Loop, Step
from finetune.preflight.tape import Recorder, Tape
from finetune.spec import RunSpec, varlen

if TYPE_CHECKING:
    from peft import PeftModel


OURS = Loop()
STEPS = {"sft": Step, "dpo": PreferenceStep, "rloo": RolloutStep, "grpo": RolloutStep}
"""The step of each method."""


def trace(
    spec: RunSpec,
    batch: Batch | None = None,
    *,
    loop: Loop = OURS,
    model: PeftModel | None = None,
    recording: Callable[..., Recorder] = Recorder,
) -> Tape:
    """The tape of a run's first updates. `batch` is the worst that its configuration allows where None.

    `model` is a built one, to trace the same step on real tensors; where None it is the skeleton. `recording` makes the
    recorder.
    """
    target = spec.device.kind
    model = model or spec.skeleton()
    device = next(model.parameters()).device.type
    batch = batch or worst_batch(spec)
    recorder = recording(device, target, workspace_bytes(spec.device) // HANDLES)
    made_here = spec.config.model.weights == "random"  # module by module, nothing is read
    if (shards := spec.config.hardware.shards) > 1:
        load_shared(recorder, model, shards)
    else:
        load(recorder, model, spec.dtype, moved=loop.moved or made_here)
    with ExitStack() as stack:
        if device == "meta":
            stack.enter_context(_decided(batch, target))
            if spec.attention == flash.NAME:
                stack.enter_context(flash.flash_stood_in(recorder.tape, padded=batch.padded))
            if spec.attention == varlen.NAME:
                stack.enter_context(flash.varlen_stood_in(recorder.tape, target))
        STEPS[spec.config.training.method](spec, model, recorder, loop).run(batch)
    return recorder.tape


def worst_batch(spec: RunSpec) -> Batch:
    """The largest micro batch that a run can meet: every row at `max_length`, and one a token shorter, which makes
    it a batch with a mask. A pair is two rows; a completion is as long as it may be, and its prompt fills the rest."""
    training, data = spec.config.training, spec.config.data
    rows = training.micro_batch_size * (2 if training.method == "dpo" else 1)
    if training.online:  # all completions of an update are padded to the longest, so that one alone has padding too
        prompt = data.max_length - spec.config.rollout.max_completion_length
        return Batch(rows, data.max_length, padded=True, prompt_tokens=prompt)
    return Batch(rows, data.max_length, padded=rows > 1 and not data.packing, packed=data.packing)


def _decided(batch: Batch, target: str) -> ExitStack:
    """Answers the questions that libraries ask of a tensor's contents, and leaves out kernels that need a card."""
    stack = ExitStack()
    masks = {
        "_ignore_causal_mask_sdpa": lambda *_, **__: not batch.padded,
        "find_packed_sequence_indices": _packs if batch.packed else lambda positions: None,
    }
    stack.enter_context(replaced(masking_utils, **masks))
    stack.enter_context(replaced(moe, _grouped_mm=grouped_mm))
    if target == "cuda":
        # Triton kernels, and a product summed in float32, work on the tile in place.
        names = {name: lambda *_, **__: None for name in ("_forward_tile", "_backward_tile", "_addmm_fp32")}
        stack.enter_context(replaced(chunked_logprob, **names))
    return stack


def _packs(positions: torch.Tensor) -> torch.Tensor:
    """Numbers of the rows in each pack, as `find_packed_sequence_indices` makes them (batch, tokens)."""
    return (torch.diff(positions, prepend=positions[:, :1] - 1, dim=-1) != 1).cumsum(-1)
