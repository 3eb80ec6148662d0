"""TRL's own trainers on tiny models and the CPU, every byte of their tensors counted, phase by phase."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from finetune.live_tensors import LiveTensors
from finetune.model import build_model
from finetune.spec import RunSpec
from finetune.training.memory import _held
from finetune.training.trainer import adapter_untouched

GENERATION, SCORING, MICRO_STEP = "generation", "scoring", "micro step"


def tokenizer(stop: int) -> PreTrainedTokenizerFast:
    """A token for each word `1` to `512`, of which the models have no more than 511; `stop` ends a text."""
    words = {"<pad>": 0} | {str(number): number for number in range(1, 513)}
    split = Tokenizer(models.WordLevel(words, unk_token="1"))
    split.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=split, pad_token="<pad>", eos_token=str(stop))


def measured(spec: RunSpec, folder: Path) -> dict[str, int]:
    """Peak bytes of two updates by phase, with TRL's trainer of the run's method, every row as long as may be but for
    some that are a token shorter."""
    model = build_model(spec)
    with adapter_untouched(model):
        trainer = MAKERS[spec.config.training.method](spec, model, folder)
        model.delete_adapter("ref")  # TRL's copy of an adapter that does nothing yet; without it, it switches that off
    live, peaks = LiveTensors(), dict.fromkeys((GENERATION, SCORING, MICRO_STEP), 0)
    live.begin_with(_held(trainer.model))

    def watch(owner: Any, name: str, phase: str) -> None:
        method: Callable = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            if phase == SCORING and torch.is_grad_enabled():  # part of a micro step
                return method(*args, **kwargs)
            before, live.peak = live.peak, live._sum
            result = method(*args, **kwargs)
            peaks[phase] = max(peaks[phase], live.peak)
            live.peak = max(before, live.peak)  # a part may hold another
            return result

        setattr(owner, name, watched)

    watch(trainer, "compute_loss", MICRO_STEP)
    watch(trainer.accelerator, "backward", MICRO_STEP)
    if spec.config.training.online:
        watch(trainer, "_generate_single_turn", GENERATION)
        watch(trainer, "_get_per_token_logps_and_entropies", SCORING)
    else:
        watch(trainer.model, "forward", SCORING)
    with live:
        trainer.train()
    return peaks


def _arguments(spec: RunSpec, folder: Path) -> dict[str, Any]:
    training = spec.config.training
    return {
        "output_dir": str(folder / "out"), "max_steps": 2, "per_device_train_batch_size": training.micro_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps, "optim": training.optimizer,
        "activation_checkpointing": training.recomputes,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "bf16": spec.autocast is torch.bfloat16, "beta": training.pull, "report_to": [], "save_strategy": "no",
        "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False, "logging_strategy": "no",
    }  # fmt: skip


def _preference(spec: RunSpec, model: Any, folder: Path) -> DPOTrainer:
    training, tokens = spec.config.training, spec.config.data.max_length
    # A prompt of one token, and TRL writes a stop token behind each answer.
    row = {"prompt": "5", "chosen": " 7" * (tokens - 2), "rejected": " 9" * (tokens - 3)}
    rows = Dataset.from_list([row] * 2 * training.effective_batch_size)
    arguments = DPOConfig(**_arguments(spec, folder), max_length=None, disable_dropout=False)
    return DPOTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer(stop=2))


def _online(spec: RunSpec, model: Any, folder: Path, trainer: Any, arguments: Any) -> Any:
    rollout, training = spec.config.rollout, spec.config.training
    prompt = spec.config.data.max_length - rollout.max_completion_length
    each = training.effective_batch_size // rollout.num_generations
    # Where an update has several prompts, every other one is a token shorter.
    prompts = [" ".join(["5"] * (prompt - number % each % 2)) for number in range(2 * each)]
    made = arguments(
        **_arguments(spec, folder), num_generations=rollout.num_generations, top_p=rollout.top_p,
        temperature=rollout.temperature, max_completion_length=rollout.max_completion_length,
        shuffle_dataset=False,
    )  # fmt: skip

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [float(number % 3) for number in range(len(completions))]

    # A stop that is never sampled: every completion is as long as may be.
    return trainer(
        model=model, args=made, train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer(stop=512), reward_funcs=reward,
    )  # fmt: skip


MAKERS = {
    "dpo": _preference,
    "rloo": lambda *args: _online(*args, RLOOTrainer, RLOOConfig),
    "grpo": lambda *args: _online(*args, GRPOTrainer, GRPOConfig),
}
