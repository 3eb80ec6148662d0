"""A trainer that is used and then as it was: what the rehearsal leaves behind is nothing."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import release_memory
from bitsandbytes.functional import GlobalPageManager
from bitsandbytes.optim import GlobalOptimManager

from finetune.errors import AuditError
from finetune.training.audit import HINT
from finetune.training.randomness import random_state, set_random_state

if TYPE_CHECKING:
    from finetune.training.watched import Watched

COUNTED = ("rows_seen", "tokens_seen", "trained_seen")

LOGGED = ("_metrics", "_logs", "_pending_extra_logs", "_pending_metrics")
"""What trainers note of their batches; not every one has all."""

Containers = list[tuple[Any, Any]]
"""Dictionaries, lists and sets, each with a copy of what it held."""


@contextmanager
def unchanged(trainer: Watched) -> Iterator[None]:
    """Lets `trainer` train and save inside, and puts everything back bit for bit: adapter, gradients, optimiser and
    scheduler, random numbers, counters, what accelerate and bitsandbytes remember, the mode and hooks of each module.

    Where the body raises, nothing is put back: the run is over. Raises AuditError naming what is not as it was.
    """
    before = fingerprint(trainer)
    tensors = [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in _changing(trainer.model)]
    containers = [pair for owner in _owners(trainer) for pair in _contents(owner)]
    randomness = random_state(trainer.args.device)
    _stand_in(trainer)
    yield
    for container, content in containers:
        container.clear()
        container.extend(content) if isinstance(container, list) else container.update(content)
    with torch.no_grad():
        for tensor, value in tensors:
            tensor.copy_(value)
    trainer.model.zero_grad(set_to_none=True)
    release_memory()  # so that the run finds the card's memory in one piece
    set_random_state(randomness, trainer.args.device)
    after = fingerprint(trainer)
    for name in {**before, **after}:
        if before.get(name) != after.get(name):
            raise AuditError(f"the rehearsal has changed {name}", HINT)


def fingerprint(trainer: Watched) -> dict[str, Any]:
    """What a run begins with, by name: equal before and after where nothing has changed.

    Trained tensors and buffers by the SHA-256 of their bytes; frozen ones, which may be gigabytes, by their place in
    memory and the count that torch keeps of writes to them.
    """
    found: dict[str, Any] = {}
    for name, parameter in trainer.model.named_parameters():
        found[name] = _digest(parameter) if parameter.requires_grad else (parameter.data_ptr(), parameter._version)
        found[f"the gradient of {name}"] = None if parameter.grad is None else _digest(parameter.grad)
    found |= {name: _digest(buffer) for name, buffer in trainer.model.named_buffers()}
    found |= {f"the mode of {name or 'the model'}": part.training for name, part in trainer.model.named_modules()}
    for name, state in random_state(trainer.args.device).items():
        found[f"random numbers of {name}"] = _digest(state) if isinstance(state, torch.Tensor) else repr(state)
    found |= {name: int(getattr(trainer, name)) for name in COUNTED}
    found |= {name: repr(getattr(trainer, name)) for name in ("args", "state", "control", "_metrics")}
    found |= {name: id(getattr(trainer, name)) for name in ("optimizer", "lr_scheduler", "callback_handler")}
    return found


def _stand_in(trainer: Watched) -> None:
    """Gives the trainer copies of what training writes into; the originals come back with its other attributes."""
    for name in ("state", "control", *(name for name in LOGGED if hasattr(trainer, name)), *COUNTED):
        setattr(trainer, name, copy.deepcopy(getattr(trainer, name)))
    trainer.args, trainer.callback_handler = copy.copy(trainer.args), copy.copy(trainer.callback_handler)
    if trainer.accelerator.scaler is not None:
        # At its usual 65,536 float16 may overflow, the updates be skipped, and the optimiser never have a state.
        trainer.accelerator.scaler = torch.amp.GradScaler(trainer.args.device.type, init_scale=1.0)


def _owners(trainer: Watched) -> Iterator[Any]:
    """Objects whose attributes training sets: hooks and wrapped forwards, special tokens, lists of what was prepared.

    bitsandbytes lists paged optimiser state and never frees it: here it leaves the list, its memory may leave the card.
    """
    model, accelerator = trainer.model, trainer.accelerator
    yield from model.modules()
    yield from (part for part in (model.config, getattr(model, "generation_config", None)) if part is not None)
    yield from (trainer, accelerator, accelerator.gradient_state)
    yield from (GlobalOptimManager.get_instance(), GlobalPageManager.get_instance())


def _contents(owner: Any) -> Containers:
    """The attributes of an object, and what those that are containers hold."""
    parts = [vars(owner), *(value for value in vars(owner).values() if isinstance(value, dict | list | set))]
    return [(part, copy.copy(part)) for part in parts]


def _changing(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Trained tensors, and buffers: some models stretch their rotary frequencies to the longest sequence seen."""
    yield from (parameter for parameter in model.parameters() if parameter.requires_grad)
    yield from model.buffers()


def _digest(tensor: torch.Tensor) -> tuple[torch.dtype, str]:
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return tensor.dtype, hashlib.sha256(data).hexdigest()
