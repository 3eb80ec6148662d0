"""The processes of one run, as torchrun and accelerate launch start them: who this one is, and how they agree.

Each has one card and a whole copy of the model, or shares the frozen base with others (training/sharded.py), and sees
itself alone: what the launcher says in the environment is taken out of it, so that transformers, TRL and accelerate do
what they do in one process. DistributedDataParallel would sum gradients inside every backward pass, and TRL gathers
figures inside every forward pass; a pass that is done again in one process, because it did not fit or gave no numbers,
would wait there for ever. Here processes speak to each other between passes alone, so each may do its own as often as
it must.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from finetune.errors import ConfigError, ProcessLost

if TYPE_CHECKING:
    import torch

    from finetune.config import RunConfig

T = TypeVar("T")

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""What launchers say of a process."""

PATIENCE = timedelta(days=30)
"""A process waits for the others as long as it takes: the first may be waiting for room on its disk. That one has ended
is seen at once, by its connection and by the launcher."""

ENGINES = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
"""What accelerate can be asked for, and a run does not take from there."""

NOT_READ = ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND")
"""What accelerate would do to a trainer besides, at odds with the configuration."""


@dataclass(frozen=True)
class Processes:
    """This process among those of the run: `rank` of `count`, `local_count` of them on this machine; `notes` say what
    was asked of the launcher in vain."""

    rank: int = 0
    count: int = 1
    local_count: int = 1
    notes: tuple[str, ...] = ()
    before_meeting: list[Callable[[], None]] = field(default_factory=list, compare=False, repr=False)
    """Called before processes tell each other anything."""

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.count == 1

    @property
    def main(self) -> bool:
        """Whether this one speaks and writes: the first."""
        return self.rank == 0

    def owns(self, place: int) -> bool:
        """Whether the micro batch at this place in its update is this process's: they are dealt out in turn."""
        return place % self.count == self.rank

    def require_shares(self, config: RunConfig) -> None:
        """Raises ConfigError where the updates of a run cannot be shared out."""
        training = config.training
        steps, shards = training.gradient_accumulation_steps, config.hardware.shards
        if self.count % shards:
            raise ConfigError(
                f"hardware.shards={shards} processes share the base, and {self._started()}",
                f"start {shards} of them, or a multiple, as with `torchrun --nproc-per-node {shards} -m finetune "
                "train CONFIG`, or set hardware.shards=1",
            )
        if not self.alone and training.online:
            raise ConfigError(
                f"training.method={training.method} runs in one process, and {self.count} were started",
                "start it without a launcher; sft and dpo run in several",
            )
        if steps % self.count:
            fits = [str(count) for count in range(1, steps + 1) if steps % count == 0]
            raise ConfigError(
                f"training.gradient_accumulation_steps={steps} micro batches cannot be shared out evenly among "
                f"{self.count} processes",
                f"start {_listed(fits)} of them, or make it a multiple of {self.count}, such as "
                f"{-(-steps // self.count) * self.count}",
            )

    def _started(self) -> str:
        return "one was started" if self.alone else f"{self.count} were started"

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of ranks."""
        if self.alone:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.count
        with _together():
            self._meet()
            dist.all_gather_object(found, value)
        return found

    def _meet(self) -> None:
        for call in self.before_meeting:
            call()

    def told(self, find: Callable[[], T]) -> T:
        """What the first process finds; the others do not look."""
        return self.gather(find() if self.main else None)[0]

    def any(self, value: bool) -> bool:
        """Whether it is so in one process at least."""
        return value if self.alone else any(self.gather(value))

    def all(self, value: bool) -> bool:
        """Whether it is so in every process."""
        return value if self.alone else all(self.gather(value))

    def total(self, value: T) -> T | int:
        """The sum of whole numbers, tensors of one perhaps, over all processes."""
        return value if self.alone else sum(self.gather(int(value)))

    def wait(self) -> None:
        """Until every process has come here."""
        self.gather(None)

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Gives every process the sum of all their gradients; of one that has none it counts as zero.

        Each where it is, not copied into one bucket: nothing is held twice, so preflight's figures stay true.
        """
        if self.alone:
            return
        import torch
        import torch.distributed as dist

        with _together():
            self._meet()
            waits = []
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                waits.append(dist.all_reduce(parameter.grad, async_op=True))
            for one in waits:
                one.wait()


ALONE = Processes()


def rank_of(environment: Mapping[str, str]) -> int:
    """The rank that a launcher gave a process; 0 where it is alone."""
    return int(environment.get("RANK") or 0) if int(environment.get("WORLD_SIZE") or 1) > 1 else 0


@contextmanager
def joined(config: RunConfig) -> Iterator[Processes]:
    """The processes that a launcher started together with this one for a run; itself alone where none did. To be called
    before torch touches a card. Raises ConfigError where the run cannot be shared out among them, and where the
    launcher was asked for what a run does not have."""
    _refuse_engines()
    notes = tuple(_left_unread())
    given = {name: os.environ.pop(name, None) for name in NAMES}
    rank, count, local_rank, local_count = (int(given[name] or one) for name, one in zip(NAMES, "0101", strict=True))
    processes = Processes(rank, count, local_count, notes)
    processes.require_shares(config)
    if processes.alone:
        yield processes
        return
    if os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        _take_card(local_rank)
    import torch
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _together():
        dist.init_process_group(backend, rank=rank, world_size=count, timeout=PATIENCE)
    yield processes
    processes.wait()  # not reached where the run failed: the others see that this one has ended
    dist.destroy_process_group()


def _take_card(local_rank: int) -> None:
    """Leaves this process one card of those that are there: to all libraries it is then a machine with one."""
    cards = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if cards and local_rank >= len(cards):
        raise ConfigError(
            f"CUDA_VISIBLE_DEVICES names {len(cards)} cards, and process {local_rank + 1} of this machine has none",
            f"start {len(cards)} processes",
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = cards[local_rank] if cards else str(local_rank)


def _refuse_engines() -> None:
    for name, engine in ENGINES.items():
        if os.environ.get(name, "").lower() == "true":
            raise ConfigError(
                f"accelerate is asked for {engine}, which a run does not take from there",
                "choose multi-GPU in `accelerate config`, or give `accelerate launch --multi_gpu --num_processes N`; "
                "hardware.shards=N shares the base out",
            )


def _left_unread() -> Iterator[str]:
    for name in NOT_READ:
        value = os.environ.pop(name, "no")
        if value.lower() != "no":
            setting = name.removeprefix("ACCELERATE_").lower()
            yield f"accelerate's {setting}={value} is not read: the configuration alone says how a run computes"


@contextmanager
def _together() -> Iterator[None]:
    """What processes do together fails where one of them has ended."""
    try:
        yield
    except RuntimeError as error:
        if threading.current_thread() is threading.main_thread():
            # The launcher is about to end all the others: this one ends by itself, once it has said how to go on.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ProcessLost(
            f"another process of the run has ended ({reason[:100]})", "its own words stand beside these"
        ) from None


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
