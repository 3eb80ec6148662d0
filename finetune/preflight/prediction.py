"""From a tape to figures: what is allocated, reserved and taken by the process at the worst instant, and by what."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from finetune.preflight.allocator import CachingAllocator
from finetune.preflight.hardware import context_bytes
from finetune.preflight.step import Batch, Loop
from finetune.preflight.tape import Tape
from finetune.preflight.trace import OURS, trace
from finetune.spec import RunSpec

ERRORS = {"allocated": 0.03, "reserved": 0.16, "process": 0.15}
"""The largest error of each figure against measured runs, as a share (benchmarks/results/preflight_accuracy.json; runs
whose fused kernels were not ours left out). What an allocator reserves hangs on all that was loaded before."""
INSTANTS = 400
"""Points of a timeline: as many as a picture shows."""


@dataclass(frozen=True)
class Instant:
    """One moment of the last update: bytes by cause, and what the allocator has reserved."""

    phase: str
    reserved: int
    by_cause: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """The object in preflight.json."""
        return {"phase": self.phase, "reserved_bytes": self.reserved, "bytes": self.by_cause}


@dataclass(frozen=True)
class Prediction:
    """Bytes at the worst instant of a run's updates, loading included.

    `allocated` is torch's own count (`max_memory_allocated`), `reserved` what its allocator has taken from the card,
    `process` adds the CUDA context. `phase` and `operation` name the instant; `breakdown` says by cause what is alive
    there and sums to `allocated`; `peaks` are the highest allocated bytes of each phase. `flops` are those of one
    micro step, recomputation included, and where completions are sampled its share of sampling and scoring them;
    `decoding_flops` is the part of it that goes token by token. `timeline` follows the last update.
    """

    allocated: int
    reserved: int
    process: int
    phase: str
    operation: str
    breakdown: dict[str, int]
    peaks: dict[str, int]
    flops: int = 0
    decoding_flops: int = 0
    timeline: tuple[Instant, ...] = field(default=(), repr=False)


def predict(spec: RunSpec, batch: Batch | None = None, *, loop: Loop = OURS) -> Prediction:
    """The memory of a described run, from a trace of it; of its worst batch where no other is given."""
    return replay(trace(spec, batch, loop=loop), spec)


def replay(tape: Tape, spec: RunSpec) -> Prediction:
    """Runs a tape through the allocator of the run's device; the CPU has none that keeps memory to itself."""
    if spec.device.kind == "cpu":
        memory: CachingAllocator | Exact = Exact()
    else:
        memory = CachingAllocator(expandable_segments=spec.config.hardware.expandable_segments)
    player = _Player(tape, memory)
    player.run()
    reserved = memory.peak_reserved
    return Prediction(
        allocated=memory.peak_allocated,
        reserved=reserved,
        process=reserved + context_bytes(spec.device),
        phase=tape.phases[player.born_at_peak],
        operation=_plain(tape.ops[player.born_at_peak]),
        breakdown=player.breakdown,
        peaks=player.peaks,
        flops=tape.flops // max(tape.micro_steps, 1),
        decoding_flops=tape.decoding_flops // max(tape.micro_steps, 1),
        timeline=tuple(player.timeline),
    )


class Exact:
    """Memory without an allocator's rounding or cache, with the names of one."""

    def __init__(self) -> None:
        self.allocated = self.peak_allocated = 0
        self._sizes: dict[int, int] = {}

    @property
    def reserved(self) -> int:
        """The same as what is allocated."""
        return self.allocated

    @property
    def peak_reserved(self) -> int:
        """The same as what was allocated at most."""
        return self.peak_allocated

    def malloc(self, key: int, size: int) -> None:
        """Takes `size` bytes under the name `key`."""
        self._sizes[key] = size
        self.allocated += size
        self.peak_allocated = max(self.peak_allocated, self.allocated)

    def free(self, key: int) -> None:
        """Gives them back."""
        self.allocated -= self._sizes.pop(key)


class _Player:
    """Plays a tape into an allocator and notes what is alive at the peak and along the last update."""

    def __init__(self, tape: Tape, memory: CachingAllocator | Exact) -> None:
        self.tape, self.memory = tape, memory
        self.born_at_peak = 0
        self.breakdown: dict[str, int] = {}
        self.peaks: dict[str, int] = {}
        self.timeline: list[Instant] = []

    def run(self) -> None:
        tape, memory = self.tape, self.memory
        alive, taken, phases = Counter[str](), dict[int, int](), _phase_of_events(tape)
        watched = _watched(tape)
        peak, risen = 0, False
        for index, event in enumerate(tape.events):
            number = event if event >= 0 else ~event
            before = memory.allocated
            if event >= 0:
                memory.malloc(number, tape.sizes[number])
                taken[number] = memory.allocated - before
                alive[tape.causes[number]] += taken[number]
                self.peaks[phases[index]] = max(self.peaks.get(phases[index], 0), memory.allocated)
                if memory.allocated > peak:
                    peak, risen, self.born_at_peak = memory.allocated, True, number
            else:
                if risen:  # the top of a climb: what is alive now was alive at the peak
                    self.breakdown, risen = {cause: size for cause, size in alive.items() if size}, False
                memory.free(number)
                alive[tape.causes[number]] -= taken.pop(number)
            if index in watched:
                by_cause = {cause: size for cause, size in alive.items() if size}
                self.timeline.append(Instant(phases[index], memory.reserved, by_cause))


def _phase_of_events(tape: Tape) -> list[str]:
    ends = [*(start for start, _ in tape.marks[1:]), len(tape.events)]
    phases = ["load"] * (tape.marks[0][0] if tape.marks else len(tape.events))
    for (start, phase), end in zip(tape.marks, ends, strict=True):
        phases += [phase] * (end - start)
    return phases


def _watched(tape: Tape) -> set[int]:
    """Events of the last update that a timeline shows: the highest and the lowest of equal stretches."""
    first, last = tape.last_update, len(tape.events)
    level, levels = 0, []
    for event in tape.events[first:last]:
        level += tape.sizes[event] if event >= 0 else -tape.sizes[~event]
        levels.append(level)
    edges = [round(i * len(levels) / (INSTANTS // 2)) for i in range(INSTANTS // 2 + 1)]
    stretches = [range(a, b) for a, b in pairwise(edges) if b > a]
    chosen = {max(s, key=levels.__getitem__) for s in stretches} | {min(s, key=levels.__getitem__) for s in stretches}
    return {first + index for index in chosen}


def _plain(operation: str) -> str:
    """`aten.mm.default` as `mm`."""
    parts = operation.split(".")
    return parts[1] if len(parts) == 3 else operation
