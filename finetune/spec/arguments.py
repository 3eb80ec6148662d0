"""What a run asks of TRL: the fields of its configuration, for each method."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments

if TYPE_CHECKING:
    from finetune.spec.run_spec import RunSpec

NEVER = 10**9
"""Updates between checkpoints where those of `auto` come by the clock; transformers always saves the last update."""

CLASSES = {"sft": "SFTConfig", "dpo": "DPOConfig", "rloo": "RLOOConfig", "grpo": "GRPOConfig"}
"""TRL's configuration of each method."""


def arguments_class(method: str) -> type[TrainingArguments]:
    """TRL's configuration of a method."""
    import trl

    return getattr(trl, CLASSES[method])


def trainer_fields(spec: RunSpec) -> dict[str, Any]:
    """The fields that a run sets."""
    method = spec.config.training.method
    own = {"sft": _sft, "dpo": _dpo}.get(method, _online)(spec)
    return {**_common(spec), **own}


def _common(spec: RunSpec) -> dict[str, Any]:
    training, on_gpu = spec.config.training, spec.device.kind == "cuda"
    return dict(
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        per_device_train_batch_size=training.micro_batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=training.lr_scheduler,
        warmup_steps=training.warmup_ratio,  # transformers reads a number below 1 as a share of all updates
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        optim=training.optimizer,
        bf16=spec.autocast is torch.bfloat16,
        fp16=spec.autocast is torch.float16,
        **_checkpointing(training.recomputes),
        seed=training.seed,
        data_seed=training.seed,
        ignore_data_skip=spec.config.data.streaming,  # a stream goes on where a checkpoint says
        save_strategy="steps" if training.save_steps else "no",
        save_steps=training.save_steps if isinstance(training.save_steps, int) else NEVER,
        metric_for_best_model="eval_reward" if training.online else "eval_loss",
        greater_is_better=training.online,
        save_total_limit=training.save_total_limit,
        eval_strategy="steps" if training.eval_steps and spec.config.data.holds_out else "no",
        eval_steps=training.eval_steps,
        logging_steps=training.logging_steps,
        logging_nan_inf_filter=False,  # the default hides a NaN loss
        report_to=training.report_to,
        disable_tqdm=True,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
    )


def _sft(spec: RunSpec) -> dict[str, Any]:
    """Rows reach the trainer tokenised, masked and packed."""
    return dict(
        activation_offloading=spec.config.training.activation_offloading,
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )


def _dpo(spec: RunSpec) -> dict[str, Any]:
    """Pairs reach the trainer tokenised; dropout is what `lora.dropout` says, where TRL would switch it off."""
    return dict(
        activation_offloading=spec.config.training.activation_offloading,
        beta=spec.config.training.pull,
        max_length=None,
        disable_dropout=False,
    )


def _online(spec: RunSpec) -> dict[str, Any]:
    """Completions of one update are sampled together, by the policy that is updated with them."""
    rollout, training = spec.config.rollout, spec.config.training
    return dict(
        beta=training.pull,
        num_generations=rollout.num_generations,
        steps_per_generation=training.gradient_accumulation_steps,
        max_completion_length=rollout.max_completion_length,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        reward_weights=[reward.weight for reward in spec.config.rewards],
        generation_kwargs={"use_cache": True},  # the model's own configuration says no, for training
    )


def _checkpointing(on: bool) -> dict[str, Any]:
    """transformers renamed `gradient_checkpointing` to `activation_checkpointing` after 5.17."""
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    return {name: on, f"{name}_kwargs": {"use_reentrant": False}}
