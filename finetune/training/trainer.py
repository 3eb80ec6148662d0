"""The trainer of a described run: TRL's, of the run's method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune.processes import ALONE, Processes
from finetune.spec import RunSpec
from finetune.training.watched import Watched

if TYPE_CHECKING:
    from peft import PeftModel

    from finetune.data import LoadedData


def build_trainer(
    spec: RunSpec, model: PeftModel, data: LoadedData, checkpoints: Path, processes: Processes = ALONE
) -> Watched:
    """The trainer for a described run. `checkpoints` is the directory it saves to. Raises ConfigError where a reward's
    function cannot be had."""
    kind, own = _of_method(spec, data)
    with adapter_untouched(model):
        trainer = kind(
            model=model,
            args=spec.trainer_arguments(checkpoints),
            train_dataset=data.train_dataset,
            eval_dataset=data.held_out,
            processing_class=data.tokenizer,
            spec=spec,
            lengths=data.lengths(),
            places=data.places,
            **own,
        )
    trainer.join(processes)
    if spec.config.training.compile:
        trainer.compile()
    return trainer


def _of_method(spec: RunSpec, data: LoadedData) -> tuple[type[Watched], dict[str, Any]]:
    """The trainer's class, and what it alone takes. Imported here: a method loads no other's libraries."""
    method = spec.config.training.method
    if method == "sft":
        from finetune.training.supervised import SupervisedTrainer

        return SupervisedTrainer, {"data_collator": data.collator, "stream": data.stream}
    if method == "dpo":
        from finetune.training.preference import PreferenceTrainer

        return PreferenceTrainer, {}
    from finetune.rl.rewards import make_scorers
    from finetune.training.online import GroupTrainer, LeaveOneOutTrainer

    kind = LeaveOneOutTrainer if method == "rloo" else GroupTrainer
    return kind, {"scorers": make_scorers(spec.config.rewards), "prompts": data.train.prompts}


@contextmanager
def adapter_untouched(model: torch.nn.Module) -> Iterator[None]:
    """Puts the trainable tensors back as they were: TRL casts QLoRA adapters to bfloat16 when a trainer is made."""
    tensors = {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}
    yield
    for name, parameter in model.named_parameters():
        if name in tensors:
            parameter.data = tensors[name]
