"""Loading, as transformers does it, on the tape: what it leaves behind in the allocator shapes what fits later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers.core_model_loading import dot_natural_key

from finetune.preflight.tape import ADAPTERS, GATHERED, WEIGHTS, Recorder
from finetune.spec.recomputation import layers_of

if TYPE_CHECKING:
    from peft import PeftModel

GATHERED_AT_ONCE = 3
"""Layers: one that computes, the next one as it arrives, and its weights as they are taken out of that."""


def load(recorder: Recorder, model: PeftModel, dtype: torch.dtype, *, moved: bool = False) -> None:
    """Puts a model's tensors on the tape in the order in which they come, with what passes on the way.

    First one block of the size of all weights is taken and given back (`caching_allocator_warmup`). Then weights come
    by name (`convert_and_load_state_dict_in_model`): one that is quantised arrives whole in `dtype`, one by one, and
    one that is kept in float32 arrives in `dtype` and is cast when all are there. A model that was made in host
    memory and `moved` comes as its modules are ordered, without that block.
    """
    tape = recorder.tape
    base = [(name, parameter) for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if not moved:
        tape.death(_passing(recorder, sum(_arriving(parameter, dtype) for _, parameter in base)))
        base.sort(key=lambda item: dot_natural_key(item[0].replace(".base_layer", "")))
    casts = []
    for _, parameter in base:
        if hasattr(parameter, "quant_state"):
            _quantise(recorder, parameter, dtype)
        elif parameter.dtype == dtype:
            recorder.hold([parameter], WEIGHTS)
        else:
            casts.append((parameter, _passing(recorder, parameter.numel() * dtype.itemsize)))
    recorder.hold(model.buffers(), WEIGHTS)
    for parameter, narrow in casts:
        recorder.hold([parameter], WEIGHTS)
        tape.death(narrow)
    recorder.hold((parameter for parameter in model.parameters() if parameter.requires_grad), ADAPTERS)


def load_shared(recorder: Recorder, model: PeftModel, shards: int) -> None:
    """The same where processes share the base out: it comes from host memory a layer at a time, of which a part stays.
    While the run lasts, the weights of GATHERED_AT_ONCE layers are there whole."""
    tape, sizes = recorder.tape, []
    for layer in layers_of(model):
        frozen = [parameter for parameter in layer.parameters() if not parameter.requires_grad]
        sizes.append(sum(parameter.nbytes for parameter in frozen))
        whole = _passing(recorder, sizes[-1])
        recorder.hold(frozen, WEIGHTS, shards)
        for state in (parameter.quant_state for parameter in frozen if hasattr(parameter, "quant_state")):
            recorder.hold([state.absmax, state.code], WEIGHTS)
            recorder.hold([state.offset, state.state2.code, state.state2.absmax] if state.nested else [], WEIGHTS)
        tape.death(whole)
    recorder.hold((parameter for parameter in model.parameters() if not parameter.requires_grad), WEIGHTS)
    recorder.hold(model.buffers(), WEIGHTS)
    recorder.hold((parameter for parameter in model.parameters() if parameter.requires_grad), ADAPTERS)
    recorder.lasting(GATHERED_AT_ONCE * max(sizes), GATHERED, "all_gather")


def _arriving(parameter: torch.nn.Parameter, dtype: torch.dtype) -> int:
    return parameter.nbytes if hasattr(parameter, "quant_state") else parameter.numel() * dtype.itemsize


def _passing(recorder: Recorder, size: int) -> int:
    return recorder.tape.birth(size, WEIGHTS, "load", recorder.phase)


def _quantise(recorder: Recorder, parameter: torch.nn.Parameter, dtype: torch.dtype) -> None:
    """`quantize_4bit`: block maxima first, then the packed weight, its code, and the maxima in 8 bits where nested."""
    state = parameter.quant_state
    whole = _passing(recorder, state.shape.numel() * dtype.itemsize)
    if not state.nested:
        recorder.hold([state.absmax, parameter, state.code], WEIGHTS)
        recorder.tape.death(whole)
        return
    maxima = _passing(recorder, state.absmax.numel() * 4)
    recorder.hold([parameter, state.code, state.offset], WEIGHTS)
    centred = _passing(recorder, state.absmax.numel() * 4)
    recorder.hold([state.state2.code, state.state2.absmax, state.absmax], WEIGHTS)
    for passing in (centred, maxima, whole):
        recorder.tape.death(passing)
