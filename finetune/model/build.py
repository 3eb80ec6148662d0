"""The described model with numbers in it: loaded and quantised, or random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import is_flash_attn_2_available

from finetune.errors import DoesNotFit, ModelError
from finetune.spec import RunSpec
from finetune.spec.skeleton import build_skeleton, linear4bit_modules, quantize_weight
from finetune.spec.source import require_weights

if TYPE_CHECKING:
    from peft import PeftModel


HOST = torch.device("cpu")


def build_model(spec: RunSpec, *, whole: bool = True) -> PeftModel:
    """The base model on the run's device, quantised, with a fresh adapter seeded by `training.seed`; in host memory
    where the device is not to have it `whole`.

    Raises ModelError where weights cannot be loaded and DoesNotFit where the device runs out of memory.
    """
    base = build_base(spec, spec.device.torch_device if whole else HOST)
    # Here, so that the adapter's values depend on the seed alone and not on how the base was made.
    torch.manual_seed(spec.config.training.seed)
    return spec.attach(base)


def build_base(spec: RunSpec, device: torch.device | None = None) -> PreTrainedModel:
    """The base model alone, frozen; on the run's device where no other is given."""
    device = device or spec.device.torch_device
    _require_kernel(spec)
    try:
        base = _random(spec, device) if spec.config.model.weights == "random" else _pretrained(spec, device)
    except torch.OutOfMemoryError as error:
        raise DoesNotFit(
            f"the base model does not fit on {spec.device.name}: {str(error).splitlines()[0]}",
            "see what fits with `finetune preflight`",
        ) from None
    base.config.use_cache = False
    _keep_trainable_format(base)
    return base.requires_grad_(False)


def _require_kernel(spec: RunSpec) -> None:
    """Raises ModelError where the attention kernel cannot run here: a description needs none, a model does."""
    if spec.attention != "flash_attention_2" or (spec.device.kind == "cuda" and is_flash_attn_2_available()):
        return
    lacks = "the package flash-attn is not installed" if spec.device.kind == "cuda" else "this run computes on the CPU"
    raise ModelError(
        f"model.attention: flash_attention_2 needs a CUDA GPU and the package flash-attn, but {lacks}",
        "set model.attention=auto: PyTorch's own kernels need no package",
    )


def _keep_trainable_format(model: PreTrainedModel) -> None:
    """Keeps bitsandbytes from repacking 4-bit weights when the model is evaluated on a CPU with AVX512-BF16.

    The repacked weights serve an inference kernel that has no backward pass: a model evaluated once would from then
    on train without the gradients that flow through its base, and no error would say so (bitsandbytes 0.50).
    """
    for module in linear4bit_modules(model):
        module.support_avx512bf16_for_cpu = False


def _pretrained(spec: RunSpec, device: torch.device) -> PreTrainedModel:
    require_weights(spec.source)
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            spec.source.weights_dir(),
            revision=spec.source.revision,
            dtype=spec.dtype,
            quantization_config=spec.bitsandbytes(),
            attn_implementation=spec.attention,
            device_map={"": device},
            use_safetensors=True,  # a pickle can run code when opened
            trust_remote_code=spec.config.model.trust_remote_code,
            ignore_mismatched_sizes=True,  # to name them here
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:  # odd indexes
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{spec.source.name}: its weights cannot be loaded ({first})",
            "check the id, the network and free disk; only safetensors are loaded",
        ) from None
    _require_all(spec, model, loaded)
    return model


def _require_all(spec: RunSpec, model: PreTrainedModel, loaded: dict[str, Any]) -> None:
    """Raises ModelError where a weight was absent or of another shape: transformers makes a random one instead."""
    faults = [f"{name} is missing" for name in sorted(loaded["missing_keys"])]
    faults += [
        f"{name} is {list(found)}, not {list(wanted)}" for name, found, wanted in sorted(loaded["mismatched_keys"])
    ]
    for name, module in model.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        # A 4-bit weight of any shape is loaded without a word.
        if state and tuple(state.shape) != (module.out_features, module.in_features):
            faults.append(f"{name}.weight is {list(state.shape)}, not {[module.out_features, module.in_features]}")
    described = {tensor.name.replace(".base_layer.", "."): tensor for tensor in spec.tensors}
    for name, parameter in model.named_parameters():
        # transformers 5.17 takes the shape of the file for one that is not quantised, and says nothing.
        wanted = described.get(f"base_model.model.{name}")
        if wanted and not wanted.quantized and tuple(parameter.shape) != wanted.shape:
            faults.append(f"{name} is {list(parameter.shape)}, not {list(wanted.shape)}")
    if faults:
        more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise ModelError(
            f"{spec.source.name}: its weights do not fit its config.json: {faults[0]}{more}",
            "fetch or save the model again: some of its files are damaged or of another model",
        )


@torch.no_grad()
def _random(spec: RunSpec, device: torch.device) -> PreTrainedModel:
    """The skeleton filled with weights seeded by `training.seed`, module by module: no dense copy ever exists."""
    torch.manual_seed(spec.config.training.seed)
    model = build_skeleton(
        spec.model_config,
        dtype=spec.dtype,
        attention=spec.attention,
        bnb=spec.bitsandbytes(),
        trust_remote_code=spec.config.model.trust_remote_code,
    )
    quantized = set(linear4bit_modules(model))
    for module in model.modules():
        if module in quantized:
            _fill_4bit(module, spec, device)
        else:
            module.to_empty(device=device, recurse=False)
            model._init_weights(module)  # the family's own: norms, embedding scales and rotary frequencies differ
    model.tie_weights()
    return model


def _fill_4bit(module: torch.nn.Module, spec: RunSpec, device: torch.device) -> None:
    std = getattr(spec.model_config.get_text_config(), "initializer_range", 0.02)
    shape = (module.out_features, module.in_features)
    quantize_weight(module, torch.empty(shape, dtype=spec.dtype, device=device).normal_(std=std))
    if module.bias is not None:
        bias = torch.zeros_like(module.bias, device=device)
        module.bias = torch.nn.Parameter(bias, requires_grad=False)
