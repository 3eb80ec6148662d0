"""What is alive when: every storage of a traced run, from its birth to its death, by cause.

A `Recorder` watches torch's dispatcher and writes a `Tape`. It follows storages, not tensors, so that a view costs
nothing and two tensors over one storage are counted once.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from finetune.preflight.flops import flops_of
from finetune.preflight.kernels import Buffer, buffers_of
from finetune.preflight.shapes import Shapes

WEIGHTS, ADAPTERS, GRADIENTS, OPTIMISER, BATCH = "weights", "adapters", "gradients", "optimiser", "batch"
CHECKPOINTS, LAYER, HEAD = "checkpoints", "layer activations", "logits and loss"
DEQUANTISED, WORKSPACE, CACHE = "dequantised weight", "workspace", "kv cache"
GATHERED = "gathered layers"


@dataclass
class Tape:
    """Births and deaths in order. Event `i` is the birth of storage `i`, `~i` its death.

    `sizes` are bytes as requested, before an allocator rounds them; `causes`, `ops` and `phases` say of each storage
    what it is for, which operation made it and when. `marks` are (number of events before it, phase). `last_update` is
    the event with which the last update begins; `flops` are those of all `micro_steps`, with their share of what the
    update samples and scores beforehand; `decoding_flops` are the part of it that goes token by token.
    """

    sizes: list[int] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)
    ops: list[str] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    marks: list[tuple[int, str]] = field(default_factory=list)
    last_update: int = 0
    micro_steps: int = 0
    flops: int = 0
    decoding_flops: int = 0

    def birth(self, size: int, cause: str, op: str, phase: str) -> int:
        """A new storage of `size` bytes; returns its number."""
        number = len(self.sizes)
        self.sizes.append(size)
        self.causes.append(cause)
        self.ops.append(op)
        self.phases.append(phase)
        self.events.append(number)
        return number

    def death(self, number: int) -> None:
        """The end of a storage."""
        self.events.append(~number)

    def mark(self, phase: str) -> None:
        """What comes from here on happens in `phase`."""
        if not self.marks or self.marks[-1][1] != phase:
            self.marks.append((len(self.events), phase))


class Recorder(TorchDispatchMode):
    """Writes the storages of `device` that operations make and lose onto a tape while it is entered.

    `phase` is where the run is, `cause` what a storage made now is for; both are set by whoever runs the step.
    """

    def __init__(self, device: str, target: str, workspace_bytes: int = 0) -> None:
        super().__init__()
        self.tape = Tape()
        self.workspace_bytes, self.workspaces = workspace_bytes, set[str]()
        self.phase, self.cause = "load", WEIGHTS
        self._device, self._target = device, target
        # On the CPU what is made beside meta tensors, such as an optimiser's step counts, is made there too.
        self._devices = {device, target}
        self._alive: dict[int, tuple[int, weakref.ref]] = {}
        self._shapes = Shapes()
        self._operation = ""
        self._names = _Names()

    @contextmanager
    def during(self, phase: str, cause: str) -> Iterator[None]:
        """Runs its body as `phase`, storages made in it being for `cause`."""
        before = self.phase, self.cause
        self.enter(phase, cause)
        yield
        self.enter(*before)

    def enter(self, phase: str, cause: str) -> None:
        """From here on the run is in `phase`, and storages are made for `cause`."""
        self.phase, self.cause = phase, cause
        self.tape.mark(phase)

    def hold(self, tensors: Iterable[torch.Tensor], cause: str, shards: int = 1) -> None:
        """Counts tensors that exist already, or that part of them, or says what tensors on the tape are for."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            known = self._alive.get(storage._cdata)
            if known:
                self.tape.causes[known[0]] = cause
            elif storage.device.type in self._devices:
                self._follow(storage, cause, shards)

    def lasting(self, size: int, cause: str, operation: str) -> None:
        """A storage of `size` bytes that nothing dispatches and that stays to the end."""
        self.tape.birth(size, cause, operation, self.phase)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._operation = name = self._names[func]
        result = self._shapes(func, args, kwargs) if self._device == "meta" else func(*args, **kwargs)
        self.tape.flops += flops_of(name, args)
        buffers = buffers_of(name, args, result, self._target)
        early = [self._take(buffer, name) for buffer in buffers if buffer.first]
        for part in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(part, torch.Tensor):
                self._see(part)
        late = [self._take(buffer, name) for buffer in buffers if not buffer.first]
        for number in (*late, *early):
            self.tape.death(number)
        return result

    def _take(self, buffer: Buffer, operation: str) -> int:
        return self.tape.birth(buffer.size, buffer.cause or self.cause, operation, self.phase)

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._alive and storage.device.type in self._devices:
            self._follow(storage, _cause_of(self._operation) or self.cause)

    def _follow(self, storage: torch.UntypedStorage, cause: str, shards: int = 1) -> None:
        key = storage._cdata
        number = self.tape.birth(-(-storage.nbytes() // shards), cause, self._operation, self.phase)
        self._alive[key] = number, weakref.ref(storage, lambda _, key=key: self._end(key))

    def _end(self, key: int) -> None:
        self.tape.death(self._alive.pop(key)[0])


class _Names(dict):
    """Names of operations, each made once: torch puts them together anew every time."""

    def __missing__(self, operation: Any) -> str:
        self[operation] = name = str(operation)
        return name


def _cause_of(operation: str) -> str | None:
    return DEQUANTISED if "dequantize_4bit" in operation else None
