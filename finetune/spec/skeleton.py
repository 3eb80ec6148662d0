"""The quantised model on the meta device: every tensor, no weights.

The modules are those that training runs: transformers' model class, and bitsandbytes' Linear4bit put in by
transformers' own replacement. `build_model` later fills the same tree with numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

from finetune.errors import ModelError


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the model. `elements` counts weights: two for each byte of a 4-bit tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    trainable: bool
    elements: int
    quantized: bool = False

    @property
    def bytes(self) -> int:
        """Bytes that the tensor's storage takes, before any rounding by an allocator."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def build_skeleton(
    model_config: PretrainedConfig,
    *,
    dtype: torch.dtype,
    attention: str,
    bnb: BitsAndBytesConfig | None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The base model on the meta device, its linear layers replaced as `from_pretrained` would.

    Raises ModelError where transformers has no causal language model for the configuration.
    """
    # The modules are the same with any kernel, but a class refuses one that this machine does not have.
    stand_in = "eager" if attention == "flash_attention_2" else attention
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                model_config, dtype=dtype, attn_implementation=stand_in, trust_remote_code=trust_remote_code
            )
    except (ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        # A KeyError is the bare name of an activation or a rotary type that transformers does not have.
        reason = f"there is no {first}" if isinstance(error, KeyError) else first
        raise ModelError(
            f"model_type {model_config.model_type!r} cannot be built: {reason}",
            "correct what its config.json says there, or fetch the model's own again",
        ) from None
    model.config._attn_implementation = attention
    if bnb is not None:
        _quantize(model, bnb)
    model.requires_grad_(False)
    return model


def _quantize(model: PreTrainedModel, config: BitsAndBytesConfig) -> None:
    from transformers.integrations import replace_with_bnb_linear
    from transformers.quantizers.auto import AutoHfQuantizer

    quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
    skipped = quantizer.get_modules_to_not_convert(model, config.llm_int8_skip_modules, model._keep_in_fp32_modules)
    replace_with_bnb_linear(model, modules_to_not_convert=skipped, quantization_config=config)
    for module in linear4bit_modules(model):
        shape = (module.out_features, module.in_features)
        quantize_weight(module, torch.empty(shape, dtype=model.dtype, device="meta"))
        if module.bias is not None:
            module.bias.data = module.bias.data.to(model.dtype)
    _forget_meta_code()
    model.is_loaded_in_4bit = model.is_quantized = True
    model.hf_quantizer = quantizer
    model.config.quantization_config = config


def _forget_meta_code() -> None:
    """Drops bitsandbytes' cached 8-bit code where it was made on the meta device: real weights would be given it."""
    from bitsandbytes.functional import name2qmap

    if name2qmap.get("dynamic", torch.empty(0)).is_meta:
        del name2qmap["dynamic"]


def linear4bit_modules(model: torch.nn.Module) -> list[torch.nn.Module]:
    """All bitsandbytes Linear4bit modules of a model."""
    from bitsandbytes.nn import Linear4bit

    return [module for module in model.modules() if isinstance(module, Linear4bit)]


def quantize_weight(module: torch.nn.Module, weight: torch.Tensor) -> None:
    """Sets a Linear4bit's weight to `weight` (out_features, in_features), quantised on the tensor's own device."""
    from bitsandbytes.functional import quantize_4bit
    from bitsandbytes.nn import Params4bit

    old = module.weight
    options = {"blocksize": old.blocksize, "compress_statistics": old.compress_statistics, "quant_type": old.quant_type}
    packed, state = quantize_4bit(weight, **options, quant_storage=old.quant_storage)
    module.weight = Params4bit(
        packed, requires_grad=False, quant_state=state, quant_storage=old.quant_storage, module=module,
        bnb_quantized=True, **options,
    )  # fmt: skip
    module.quant_state = state


def cast_unquantized(model: PreTrainedModel) -> None:
    """Casts every 16-bit parameter that is not quantised to float32, as PEFT's k-bit preparation does."""
    for parameter in model.parameters():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()


def list_tensors(model: torch.nn.Module) -> Iterator[TensorInfo]:
    """Every parameter, buffer and quantisation constant of a model, shared tensors once."""
    from bitsandbytes.nn import Params4bit

    for name, parameter in model.named_parameters():
        quantized = isinstance(parameter, Params4bit)
        elements = parameter.quant_state.shape.numel() if quantized else parameter.numel()
        yield TensorInfo(name, tuple(parameter.shape), parameter.dtype, parameter.requires_grad, elements, quantized)
        if quantized:
            yield from _constants(name, parameter.quant_state)
    for name, buffer in model.named_buffers():
        yield TensorInfo(name, tuple(buffer.shape), buffer.dtype, False, 0)


def _constants(name: str, state: object) -> Iterator[TensorInfo]:
    """Block constants of one 4-bit weight: with double quantisation 8-bit ones, and their own in float32."""
    tensors = {"absmax": state.absmax, "code": state.code}
    if state.nested:
        tensors |= {"offset": state.offset, "nested_absmax": state.state2.absmax, "nested_code": state.state2.code}
    for key, tensor in tensors.items():
        yield TensorInfo(f"{name}.{key}", tuple(tensor.shape), tensor.dtype, False, 0)
