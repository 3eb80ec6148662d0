"""RunSpec: one description of a run, and its projections into the configurations of PEFT, bitsandbytes and TRL."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig, PretrainedConfig

from finetune.config import RunConfig
from finetune.spec.adapter import attach_adapter
from finetune.spec.architecture import check_architecture, choose_attention
from finetune.spec.arguments import arguments_class, trainer_fields
from finetune.spec.device import Device, find_device
from finetune.spec.feed_forward import chunk_feed_forward
from finetune.spec.gates import use_lean_gates
from finetune.spec.linear_loss import plain_logits
from finetune.spec.norms import use_lean_norms
from finetune.spec.recomputation import recompute_first
from finetune.spec.skeleton import TensorInfo, build_skeleton, cast_unquantized, list_tensors
from finetune.spec.source import ModelSource, locate_model

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import TrainingArguments


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of weights, adapter included, counted as PEFT counts them (a 4-bit byte is two).

    `quantized` are those of the linear layers but the output: bitsandbytes leaves the experts of a mixture, which
    transformers keeps as one stacked tensor a layer, in 16 bits.
    """

    total: int
    trainable: int
    quantized: int


@dataclass(frozen=True)
class RunSpec:
    """A resolved run: every `auto` decided but what to recompute, which preflight decides; every tensor listed. Made by
    `describe`."""

    config: RunConfig
    source: ModelSource
    model_config: PretrainedConfig
    device: Device
    compute_dtype: torch.dtype
    dtype: torch.dtype
    autocast: torch.dtype | None
    attention: str
    tensors: tuple[TensorInfo, ...] = ()

    @functools.cached_property
    def parameters(self) -> ParameterCounts:
        """Weights in all, trained, and held in 4 bits."""
        return ParameterCounts(
            total=sum(tensor.elements for tensor in self.tensors),
            trainable=sum(tensor.elements for tensor in self.tensors if tensor.trainable),
            quantized=sum(tensor.elements for tensor in self.tensors if tensor.quantized),
        )

    @property
    def learning_rate(self) -> float:
        """Peak learning rate after scaling with the effective batch.

        Linear: Goyal et al. 2017 (arXiv:1706.02677), for SGD; square root: Malladi et al. 2022
        (arXiv:2205.10287), for Adam.
        """
        training = self.config.training
        if training.lr_scaling == "none":
            return training.learning_rate
        ratio = training.effective_batch_size / training.reference_batch_size
        return training.learning_rate * (ratio if training.lr_scaling == "linear" else math.sqrt(ratio))

    @property
    def linear_loss(self) -> bool:
        """Whether the fused loss is our own (`linear_loss.py`): TRL's kernels are as fast on a card alone."""
        training = self.config.training
        fused = training.method == "sft" and training.loss_kernel == "fused_linear"
        return fused and self.device.kind == "cpu" and plain_logits(self.model_config)

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return self.model_config.get_text_config().num_hidden_layers

    @property
    def recomputed_layers(self) -> int:
        """Those that are computed again in the backward pass, the first ones."""
        return self.config.training.recomputed(self.layers)

    def bitsandbytes(self) -> BitsAndBytesConfig | None:
        """How the base is quantised, None where it is not."""
        quantization = self.config.quantization
        if quantization.type == "none":
            return None
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization.type,
            bnb_4bit_use_double_quant=quantization.double_quant,
            bnb_4bit_compute_dtype=self.compute_dtype,
        )

    def lora(self) -> LoraConfig:
        """The adapter."""
        lora = self.config.lora
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.target_modules,
            use_rslora=lora.use_rslora,
            use_dora=lora.use_dora,
            init_lora_weights=True if lora.init == "default" else lora.init,
        )

    def trainer_arguments(self, checkpoints: Path) -> TrainingArguments:
        """TRL's configuration for the method; `checkpoints` is where it saves. Made once: making it resets accelerate's
        state."""
        return arguments_class(self.config.training.method)(output_dir=str(checkpoints), **self.trainer_fields())

    def trainer_fields(self) -> dict[str, Any]:
        """The fields of TRL's configuration that a run sets."""
        return trainer_fields(self)

    def skeleton(self) -> PeftModel:
        """The model with its adapter on the meta device."""
        model = build_skeleton(
            self.model_config,
            dtype=self.dtype,
            attention=self.attention,
            bnb=self.bitsandbytes(),
            trust_remote_code=self.config.model.trust_remote_code,
        )
        return self.attach(model)

    def attach(self, model: torch.nn.Module) -> PeftModel:
        """Puts the adapter on a base model, empty or loaded: the one place where the two differ in nothing."""
        if self.config.model.fp32_unquantized:
            cast_unquantized(model)
        with torch.device(next(model.parameters()).device):
            adapted = attach_adapter(model, self.lora(), adapter_dtype=getattr(torch, self.config.lora.dtype))
        if self.config.model.lean_gates:
            use_lean_gates(model)
        if tokens := self.config.training.feed_forward_chunk:
            chunk_feed_forward(model, tokens)
        if self.config.model.lean_norms:
            use_lean_norms(model)
        if 0 < self.recomputed_layers < self.layers:
            recompute_first(model, self.recomputed_layers)
        return adapted


def describe(config: RunConfig, device: Device | None = None) -> RunSpec:
    """Resolves a configuration for `device` (this machine's, where None) and lists every tensor of its model.

    Reads the model's configuration only, no weights. Raises ModelError and ConfigError.
    """
    spec = resolve(config, device)
    return dataclasses.replace(spec, tensors=tuple(list_tensors(spec.skeleton())))


def resolve(config: RunConfig, device: Device | None = None) -> RunSpec:
    """The same without the list of tensors, which takes most of the time and which not everyone asks for."""
    device = device or find_device(config.hardware)
    source = locate_model(config.model)
    model_config = source.config()
    check_architecture(config, source, model_config)
    compute = _dtype(config.quantization.compute_dtype) or device.compute_dtype
    dtype, autocast = _dtype(config.model.dtype) or compute, _autocast(config.training.autocast, compute)
    return RunSpec(
        config=config,
        source=source,
        model_config=model_config,
        device=device,
        compute_dtype=compute,
        dtype=dtype,
        autocast=autocast,
        attention=choose_attention(config, model_config, device, autocast or dtype),
    )


def _dtype(name: str) -> torch.dtype | None:
    return None if name == "auto" else getattr(torch, name)


def _autocast(name: str, compute: torch.dtype) -> torch.dtype | None:
    if name == "auto":
        return compute if compute.itemsize == 2 else None
    return None if name == "none" else getattr(torch, name)
