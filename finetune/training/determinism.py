"""Which operation gives other bits when a step is done twice from the same state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from finetune.training.randomness import random_state, set_random_state

if TYPE_CHECKING:
    from finetune.training.watched import Watched

EMPTY = ("aten.empty", "aten.new_empty", "aten.empty_like", "aten.empty_strided", "aten.new_empty_strided")
"""Operations that promise no values: what they hold is whatever was there."""


class Witness(TorchDispatchMode):
    """Notes every operation inside, forward and backward, with a digest of what it gave; beside an earlier account it
    stops noting at the first that differs."""

    def __init__(self, model: torch.nn.Module, before: list[tuple[str, str]] | None = None) -> None:
        super().__init__()
        self.account: list[tuple[str, str]] = []
        self.before = before
        self.found: tuple[str, str] | None = None
        self._model, self._inside = model, [""]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(func)
        if self.found is None and not name.startswith(EMPTY) and not _is_view(func):
            self._note(name, _digest(result))
        return result

    def _note(self, name: str, digest: str) -> None:
        at = len(self.account)
        self.account.append((name, digest))
        if self.before is not None and (at >= len(self.before) or self.before[at] != (name, digest)):
            self.found = name, self._inside[-1]

    def _leave(self, *_: Any) -> None:
        self._inside.pop()

    @contextmanager
    def modules_named(self) -> Iterator[None]:
        """Knows inside which module's forward pass an operation is; in the backward pass, none."""
        hooks = []
        for name, module in self._model.named_modules():
            hooks.append(module.register_forward_pre_hook(lambda *_, name=name: self._inside.append(name)))
            hooks.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def first_difference(trainer: Watched) -> dict[str, str] | None:
    """Does one forward and backward pass over the first rows twice, from the same weights and random numbers; the first
    operation whose result differs, and the module that called it. None where all are equal to the bit."""
    rows = [trainer.train_dataset[index] for index in range(min(trainer.rows_at_once, len(trainer.train_dataset)))]
    batch, guards = trainer.batch_of(rows), trainer.guards
    randomness, account = random_state(trainer.args.device), None
    trainer.model.train()
    trainer.guards, trainer.current_gradient_accumulation_steps = None, 1  # as transformers sets it for each update
    for _ in range(2):
        set_random_state(randomness, trainer.args.device)
        for counted in (trainer.rows_seen, trainer.tokens_seen, trainer.trained_seen):
            counted.zero_()
        witness = Witness(trainer.model, account)
        with witness.modules_named(), witness:
            trainer.training_step(trainer.model, dict(batch) if isinstance(batch, dict) else batch)
        trainer.model.zero_grad(set_to_none=True)
        account = witness.account
    trainer.guards = guards
    if witness.found is None:
        return None
    name, module = witness.found
    return {"operation": name, "module": module or "the backward pass"}


def _is_view(func: Any) -> bool:
    """Whether it only shows its input in another way: that may be memory which nobody has filled yet."""
    aliases = [returned.alias_info for returned in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _digest(value: Any) -> str:
    tensors = [value] if isinstance(value, torch.Tensor) else [v for v in _flat(value) if isinstance(v, torch.Tensor)]
    digest = hashlib.sha256()
    for tensor in tensors:
        if tensor.device.type != "meta" and tensor.numel():
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _flat(value: Any) -> Iterator[Any]:
    for item in value if isinstance(value, list | tuple) else ():
        yield from _flat(item) if isinstance(item, list | tuple) else [item]
