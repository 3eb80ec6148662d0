"""The adapter put on a base model by PEFT, after a look at what its target names match."""

from __future__ import annotations

import copy
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finetune.errors import ConfigError


def attach_adapter(model: PreTrainedModel, lora: LoraConfig, *, adapter_dtype: torch.dtype) -> PeftModel:
    """The model wrapped by PEFT, adapter weights on the base layers' device and in `adapter_dtype`.

    Raises ConfigError where one of `target_modules` matches nothing, or the output layer, or the experts of a mixture
    with what PEFT cannot do there.
    """
    _check_targets(model, lora)
    with warnings.catch_warnings():
        # PEFT compares the patterns that it sets for stacked experts with modules alone; they do apply.
        warnings.filterwarnings("ignore", r"The following (rank|alpha)_pattern keys", RuntimeWarning)
        wrapped = _wrap(model, lora)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(adapter_dtype)
    return wrapped


def _wrap(model: PreTrainedModel, lora: LoraConfig) -> PeftModel:
    try:
        return get_peft_model(model, lora)
    except ValueError as error:
        raise ConfigError(
            f"lora: PEFT cannot adapt {type(model).__name__}: {str(error).splitlines()[0]}",
            "name other layers in lora.target_modules",
        ) from None


def _check_targets(model: PreTrainedModel, lora: LoraConfig) -> None:
    """PEFT asks only that one name of several matches; a misspelt one would go untrained without a word."""
    resolved = _resolve(model, lora)
    if resolved.target_parameters and (lora.use_dora or lora.lora_dropout):
        found = "lora.use_dora=true" if lora.use_dora else f"lora.dropout={lora.lora_dropout}"
        raise ConfigError(
            f"{found}: PEFT adapts the experts of {type(model).__name__} with plain LoRA only",
            f"name the attention layers alone: lora.target_modules=[{', '.join(_linear_names(model))}]",
        )
    if isinstance(resolved.target_modules, str):
        return
    linear = _linear_layers(model)
    unknown = [t for t in sorted(resolved.target_modules) if not any(n == t or n.endswith(f".{t}") for n in linear)]
    if unknown:
        raise ConfigError(
            f"lora.target_modules: {', '.join(unknown)} match no linear layer inside {type(model).__name__}",
            f"its linear layers are {', '.join(_linear_names(model))}",
        )


def _resolve(model: PreTrainedModel, lora: LoraConfig) -> LoraConfig:
    """The adapter as PEFT reads it: names of a mixture's experts become its stacked parameters."""
    resolved = copy.deepcopy(lora)
    try:
        convert_peft_config_for_transformers(resolved, model=model, conversions=None)
    except ValueError as error:
        raise ConfigError(f"lora.target_modules: {error}", "name all of them, or the attention layers alone") from None
    return resolved


def _linear_layers(model: PreTrainedModel) -> list[str]:
    """Names of the layers that an adapter can stand on: all linear ones but the output."""
    output = model.get_output_embeddings()
    kinds = (torch.nn.Linear, Conv1D)
    return [name for name, module in model.named_modules() if isinstance(module, kinds) and module is not output]


def _linear_names(model: PreTrainedModel) -> list[str]:
    return sorted({name.split(".")[-1] for name in _linear_layers(model)})
