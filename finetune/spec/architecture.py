"""What a model's configuration must say before anything is built from it: a decoder with whole sizes, not yet
quantised by other means, with the attention kernel and the positions that the run asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, PretrainedConfig

from finetune.config import RunConfig
from finetune.errors import ConfigError, ModelError
from finetune.spec import varlen
from finetune.spec.source import OWN_AGAIN, SIZES, ModelSource

if TYPE_CHECKING:
    import torch

    from finetune.spec.device import Device


def check_architecture(config: RunConfig, source: ModelSource, model_config: PretrainedConfig) -> None:
    """Raises ModelError for a model that cannot be trained, and ConfigError where `config` asks more than it has."""
    _check_decoder(source.name, model_config)
    _check_sizes(source, model_config)
    _check_heads(source.name, model_config.get_text_config())
    _check_stored(config, source.name, model_config)
    _check_positions(config, model_config)
    _check_recomputed(config, model_config)


def choose_attention(config: RunConfig, model_config: PretrainedConfig, device: Device, dtype: torch.dtype) -> str:
    """The kernel; auto takes PyTorch's where the model's class has it (Gemma 2, with its capped scores, does not), for
    packed rows the one by variable length. `dtype` is that in which attention computes.

    Raises ConfigError for a kernel that the class does not have, or that cannot compute what the run asks for. Whether
    this machine has it is asked on building.
    """
    name, model_class = config.model.attention, MODEL_FOR_CAUSAL_LM_MAPPING.get(type(model_config), None)
    sdpa = getattr(model_class, "_supports_sdpa", True)
    flash = getattr(model_class, "_supports_flash_attn", True)
    has = {"sdpa": sdpa, varlen.NAME: sdpa and flash, "flash_attention_2": flash}
    reason = varlen.why_not(
        model_config, packed=config.data.packing, kind=device.kind, capability=device.capability, dtype=dtype,
        compiled=config.training.compile,
    )  # fmt: skip
    if name == "auto":
        if has[varlen.NAME] and reason is None:
            return varlen.NAME
        return "sdpa" if has["sdpa"] else "eager"
    if not has.get(name, True):
        others = ", ".join(["eager", *(kernel for kernel in has if has[kernel])])
        raise ConfigError(
            f"model.attention: {name}, but {model_class.__name__} has only {others}",
            f"set model.attention={others.split(', ')[-1]} or auto",
        )
    if name == varlen.NAME and reason is not None:
        raise ConfigError(f"model.attention: varlen, but {reason}", "set model.attention=auto")
    return name


def _check_decoder(name: str, model_config: PretrainedConfig) -> None:
    kind = type(model_config)
    if getattr(model_config, "is_encoder_decoder", False):
        found = "an encoder-decoder"
    elif kind in MODEL_FOR_MASKED_LM_MAPPING and not getattr(model_config, "is_decoder", False):
        found = "an encoder"  # BERT's class builds as a language model too, but every token sees the next
    elif kind not in MODEL_FOR_CAUSAL_LM_MAPPING and "AutoModelForCausalLM" not in _own_classes(model_config):
        found = "no language model"
    else:
        return
    raise ModelError(
        f"{name}: model_type {model_config.model_type!r} is {found}", "name a decoder, such as a Llama, Mistral or Qwen"
    )


def _own_classes(model_config: PretrainedConfig) -> dict[str, str]:
    """Classes that the model repository brings itself (`trust_remote_code`)."""
    return getattr(model_config, "auto_map", None) or {}


def _check_sizes(source: ModelSource, model_config: PretrainedConfig) -> None:
    """Raises ModelError where a local file omits sizes, which transformers fills in with those of another model.

    Models of several parts state theirs a level deeper and do rely on the defaults, as Gemma 3 does.
    """
    if source.kind != "directory" or _own_classes(model_config):
        return
    stated, default, aliases = source.stated(), type(model_config)(), type(model_config).attribute_map
    absent = [
        name
        for name in SIZES
        if name not in stated
        and aliases.get(name) not in stated
        and getattr(model_config, name, None) is not None
        and getattr(model_config, name) == getattr(default, name)
    ]
    if absent:
        raise ModelError(
            f"{source.name}: config.json lacks {', '.join(absent)}",
            "fetch the model's own config.json: transformers would take these sizes of another model",
        )


def _check_heads(name: str, text: PretrainedConfig) -> None:
    """Raises ModelError for heads that do not divide: few classes of transformers look, and the first step fails."""
    hidden, heads = (getattr(text, field, None) for field in ("hidden_size", "num_attention_heads"))
    groups = getattr(text, "num_key_value_heads", None)
    if not isinstance(heads, int):
        return
    head_dim = getattr(text, "head_dim", None) or hidden // heads
    if hidden % heads and head_dim == hidden // heads:
        wrong = f"hidden_size {hidden} is no multiple of num_attention_heads {heads}"
    elif isinstance(groups, int) and (groups < 1 or heads % groups):
        wrong = f"num_attention_heads {heads} is no multiple of num_key_value_heads {groups}"
    else:
        return
    raise ModelError(f"{name}: config.json does not fit together: {wrong}", OWN_AGAIN)


def _check_stored(config: RunConfig, name: str, model_config: PretrainedConfig) -> None:
    """Raises ModelError where the weights were stored quantised in another way than the run will hold them."""
    stored = getattr(model_config, "quantization_config", None)
    if stored is None:
        return
    stored = stored if isinstance(stored, dict) else stored.to_dict()
    same = (
        stored.get("bnb_4bit_quant_type") == config.quantization.type
        and stored.get("bnb_4bit_use_double_quant") == config.quantization.double_quant
    )
    if not (stored.get("load_in_4bit") and same):
        raise ModelError(
            f"{name}: its weights are quantised already ({_stored_as(stored)})",
            "name the model it was made from: quantization.type quantises that on loading",
        )


def _stored_as(stored: dict[str, Any]) -> str:
    method = stored.get("quant_method", "unknown method")
    if not stored.get("load_in_4bit"):
        return str(method)
    double = "with" if stored.get("bnb_4bit_use_double_quant") else "without"
    return f"{method}, {stored.get('bnb_4bit_quant_type')} {double} double_quant"


def _check_positions(config: RunConfig, model_config: PretrainedConfig) -> None:
    limit = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    if limit and config.data.max_length > limit:
        raise ConfigError(
            f"data.max_length: {config.data.max_length} tokens, but the model has positions for {limit}",
            f"set data.max_length={limit} or less",
        )


def _check_recomputed(config: RunConfig, model_config: PretrainedConfig) -> None:
    asked = config.training.gradient_checkpointing
    if isinstance(asked, (bool, str)):
        return
    layers = model_config.get_text_config().num_hidden_layers
    if asked > layers:
        raise ConfigError(
            f"training.gradient_checkpointing: {asked} layers, but {config.model.name_or_path} has {layers}",
            "write true for all of them, or auto",
        )
