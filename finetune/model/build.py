"""The described model with numbers in it: loaded and quantised, or random."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from finetune.errors import DoesNotFit, ModelError
from finetune.spec import RunSpec
from finetune.spec.skeleton import build_skeleton, linear4bit_modules, quantize_weight
from finetune.spec.source import require_weights

if TYPE_CHECKING:
    from peft import PeftModel


def build_model(spec: RunSpec) -> PeftModel:
    """The base model on the run's device, quantised, with a fresh adapter seeded by `training.seed`.

    Raises ModelError where weights cannot be loaded and DoesNotFit where the device runs out of memory.
    """
    torch.manual_seed(spec.config.training.seed)
    base = build_base(spec)
    # Again, so that the adapter's values depend on the seed alone and not on how the base was made.
    torch.manual_seed(spec.config.training.seed)
    return spec.attach(base)


def build_base(spec: RunSpec) -> PreTrainedModel:
    """The base model alone, frozen."""
    try:
        base = _random(spec) if spec.config.model.weights == "random" else _pretrained(spec)
    except torch.OutOfMemoryError as error:
        raise DoesNotFit(
            f"the base model does not fit on {spec.device.name}: {str(error).splitlines()[0]}",
            "see what fits with `finetune preflight`",
        ) from None
    base.config.use_cache = False
    _keep_trainable_format(base)
    return base.requires_grad_(False)


def _keep_trainable_format(model: PreTrainedModel) -> None:
    """Keeps bitsandbytes from repacking 4-bit weights when the model is evaluated on a CPU with AVX512-BF16.

    The repacked weights serve an inference kernel that has no backward pass: a model evaluated once would from then
    on train without the gradients that flow through its base, and no error would say so (bitsandbytes 0.50).
    """
    for module in linear4bit_modules(model):
        module.support_avx512bf16_for_cpu = False


def _pretrained(spec: RunSpec) -> PreTrainedModel:
    require_weights(spec.source)
    try:
        return AutoModelForCausalLM.from_pretrained(
            spec.source.weights_dir(),
            revision=spec.source.revision,
            dtype=spec.dtype,
            quantization_config=spec.bitsandbytes(),
            attn_implementation=spec.attention,
            device_map={"": spec.device.torch_device},
            use_safetensors=True,  # a pickle can run code when opened
            trust_remote_code=spec.config.model.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{spec.source.name}: its weights cannot be loaded ({first})",
            "check the id, the network and free disk; only safetensors are loaded",
        ) from None


@torch.no_grad()
def _random(spec: RunSpec) -> PreTrainedModel:
    """The skeleton filled with seeded normal weights, one layer at a time, so that no dense copy ever exists."""
    model = build_skeleton(
        spec.model_config,
        dtype=spec.dtype,
        attention=spec.attention,
        bnb=spec.bitsandbytes(),
        trust_remote_code=spec.config.model.trust_remote_code,
    )
    device = spec.device.torch_device
    std = getattr(spec.model_config.get_text_config(), "initializer_range", 0.02)
    quantized = linear4bit_modules(model)
    for module in quantized:
        shape = (module.out_features, module.in_features)
        quantize_weight(module, torch.empty(shape, dtype=spec.dtype, device=device).normal_(std=std))
    _materialise(model, device, std)
    model.tie_weights()
    return model


def _materialise(model: PreTrainedModel, device: torch.device, std: float) -> None:
    """Gives every tensor still on the meta device memory and values: norms one, biases zero, the rest normal."""
    for name, parameter in list(model.named_parameters()):
        if not parameter.is_meta:
            continue
        owner = model.get_submodule(name.rpartition(".")[0])
        value = torch.empty_like(parameter, device=device)
        if name.endswith("bias"):
            value.zero_()
        elif parameter.dim() == 1:
            value.fill_(1)
        else:
            value.normal_(std=std)
        setattr(owner, name.rpartition(".")[2], torch.nn.Parameter(value, requires_grad=False))
    _rebuild_buffers(model, device)


def _rebuild_buffers(model: PreTrainedModel, device: torch.device) -> None:
    """Rotary frequencies and the like are computed by their modules' constructors, from the configuration alone."""
    for name, module in list(model.named_modules()):
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            fresh = type(module)(config=module.config).to(device)
            model.set_submodule(name, fresh)
