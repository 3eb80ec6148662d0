"""The whole configuration, section by section."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from finetune.config.curation import CurationConfig
from finetune.config.rollouts import RewardConfig, RolloutConfig
from finetune.config.sections import (
    DataConfig,
    HardwareConfig,
    LoraSection,
    ModelConfig,
    Name,
    QuantizationConfig,
    Section,
    TrainingConfig,
)


class RunConfig(Section):
    """A whole run: the root of the YAML file."""

    model: ModelConfig
    quantization: QuantizationConfig = QuantizationConfig()
    lora: LoraSection = LoraSection()
    data: DataConfig
    training: TrainingConfig = TrainingConfig()
    hardware: HardwareConfig = HardwareConfig()
    curation: CurationConfig = CurationConfig()
    rollout: RolloutConfig = RolloutConfig()
    rewards: list[RewardConfig] = Field(default_factory=list)
    """What rloo and grpo learn to make large: the weighted sum of these."""
    output_dir: Name
    """The run directory; it must not hold a run yet."""

    @model_validator(mode="after")
    def _method_has_what_it_needs(self) -> RunConfig:
        rules = (_of_online, _of_pairs_and_completions, _of_shards, _of_streams)
        problems = [problem for rule in rules for problem in rule(self)]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _of_online(config: RunConfig) -> Iterator[str]:
    training, size = config.training, config.rollout.num_generations
    if training.online and not config.rewards:
        yield f"training.method={training.method} needs rewards, such as [{{type: regex, pattern: ...}}]"
    if config.rewards and not training.online:
        yield f"rewards are for training.method rloo and grpo; this is {training.method}"
    if config.rewards and not any(reward.weight for reward in config.rewards):
        yield "every one of rewards has weight 0: there is nothing to make large"
    if config.rollout != RolloutConfig() and not training.online:
        yield f"rollout is for training.method rloo and grpo; this is {training.method}"
    if training.online and training.effective_batch_size % size:
        yield (
            f"rollout.num_generations={size} does not divide the effective batch of {training.effective_batch_size} "
            "completions (training.micro_batch_size x training.gradient_accumulation_steps)"
        )
    if training.online and config.rollout.max_completion_length >= config.data.max_length:
        yield (
            f"rollout.max_completion_length={config.rollout.max_completion_length} leaves no room for a prompt within "
            f"data.max_length={config.data.max_length}, which holds both"
        )


def _of_pairs_and_completions(config: RunConfig) -> Iterator[str]:
    """What only supervised fine-tuning has."""
    training, data = config.training, config.data
    if training.method == "sft":
        if training.beta is not None:
            yield f"training.beta={training.beta:g} is for training.method dpo, rloo and grpo; this is sft"
        return
    method = f"training.method={training.method}"
    if training.method == "dpo" and training.beta == 0:
        yield "training.beta=0 takes every difference away that dpo learns from"
    if data.packing:
        yield f"data.packing=true is for sft: {method} scores each row by itself"
    if training.loss_kernel != "fused_linear":
        yield f"training.loss_kernel={training.loss_kernel}: {method} has fused_linear alone"
    if training.compile:
        yield f"training.compile=true is for sft: {method} runs the model in too many ways to wait for each"
    if training.activation_offloading and training.online:
        yield f"training.activation_offloading=true: {method} does not have it"


def _of_shards(config: RunConfig) -> Iterator[str]:
    """What a base that is shared out does not go with."""
    shards, training = config.hardware.shards, config.training
    if shards == 1:
        return
    if training.method != "sft":
        yield f"hardware.shards={shards} is for sft: this is {training.method}"
    if config.quantization.type == "none":
        yield f"hardware.shards={shards} is for a base in 4 bits; quantization.type is none"
    if config.lora.use_dora:
        yield f"hardware.shards={shards} does not go with lora.use_dora, which reads a whole weight by itself"
    for key in ("compile", "activation_offloading"):
        if getattr(training, key):
            yield f"hardware.shards={shards} does not go with training.{key}: set that to false"


def _of_streams(config: RunConfig) -> Iterator[str]:
    training = config.training
    if config.data.streaming and training.method != "sft":
        yield f"data.streaming=true is for sft: training.method={training.method} reads its rows before it trains"
    if config.data.streaming and training.max_steps is None:
        yield "data.streaming=true needs training.max_steps: how many updates a pass makes is seen only at its end"
