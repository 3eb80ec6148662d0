"""An adapter merged into dense weights: the base as it was published, or as training saw it, dequantised."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from transformers import PreTrainedModel

from finetune.model.build import build_base
from finetune.model.use import adapted
from finetune.spec import RunSpec
from finetune.spec.device import find_device
from finetune.spec.skeleton import linear4bit_modules


def dense_base(spec: RunSpec) -> PreTrainedModel:
    """The base model on the CPU, in the type of its files. Raises the errors of `build_base`."""
    unquantized = spec.config.quantization.model_copy(update={"type": "none"})
    hardware = spec.config.hardware.model_copy(update={"device": "cpu", "memory": "auto"})
    config = spec.config.model_copy(update={"quantization": unquantized, "hardware": hardware})
    return build_base(dataclasses.replace(spec, config=config, dtype=stored_dtype(spec), device=find_device(hardware)))


def cast(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """The model with its weights in this type, and its buffers as they were: the rotary frequencies stay in float32, as
    in any model that is loaded."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def stored_dtype(spec: RunSpec) -> torch.dtype:
    """The type that the files of the base say they have; bfloat16 where they say none."""
    return getattr(spec.model_config, "dtype", None) or torch.bfloat16


@torch.no_grad()
def dequantized(model: PeftModel) -> dict[str, torch.Tensor]:
    """Each 4-bit weight of a model as the numbers that its layer multiplies with, on the CPU, by the layer's name in
    the base model."""
    quantized = set(linear4bit_modules(model))
    return {
        name.replace(".base_layer", ""): dequantize_module_weight(module).cpu()
        for name, module in model.get_base_model().named_modules()
        if module in quantized
    }


@torch.no_grad()
def with_adapter(spec: RunSpec, adapter: Path, weights: dict[str, torch.Tensor]) -> PeftModel:
    """The dense base with the adapter on it, not yet merged; `weights` take the place of those of their layers.

    No adapter is on embeddings or the output (`spec.adapter`), so those that share their weight go on sharing it.
    """
    base = dense_base(spec)
    for name, weight in weights.items():
        base.get_submodule(name).weight.data = weight.to(base.dtype)
    return adapted(base, adapter, torch.float32)


@torch.no_grad()
def merge(model: PeftModel, stored: torch.dtype) -> PreTrainedModel:
    """The base model with the adapter's part in its weights: each sum is taken in float32 and rounded once, to the type
    that it is `stored` in."""
    for module in model.modules():
        if not isinstance(module, LoraLayer):
            continue
        kept = {name: parameter.dtype for name, parameter in module.get_base_layer().named_parameters(recurse=False)}
        module.get_base_layer().float()
        module.merge(safe_merge=True)
        for name, dtype in kept.items():
            parameter = getattr(module.get_base_layer(), name)
            parameter.data = parameter.data.to(stored).to(dtype)
    return model.unload()
