"""Predicted memory over one update, instant by instant: what is alive by cause, and which part of the update it is."""

from __future__ import annotations

from itertools import accumulate, groupby
from typing import NamedTuple

from finetune.report.facts import Table
from finetune.report.schema import Instant, Preflight
from finetune.report.wording import count, gib

GIB = 2**30
OTHER = "other"
CAUSES = (
    "weights", "adapters", "optimiser", "gradients", "checkpoints", "layer activations", "logits and loss",
    "dequantised weight", "workspace", "batch", "kv cache",
)  # fmt: skip
"""From the bottom of the stack upwards: what stays through the update first. Any other cause counts as `other`."""


class Stretch(NamedTuple):
    """Instants `first` to `last`, both included, that are one part of the update."""

    name: str
    first: int
    last: int


class Peak(NamedTuple):
    """The highest instant: its place in the timeline, its bytes and the phase that the trace was in."""

    index: int
    size: int
    phase: str


def allocated(instant: Instant) -> int:
    """Bytes alive for whatever cause."""
    return sum(instant.bytes.values())


def by_cause(sizes: dict[str, int]) -> dict[str, int]:
    """Bytes of every cause in the order of the stack, those of unknown causes last, as one."""
    known = {cause: sizes.get(cause, 0) for cause in CAUSES}
    return known | {OTHER: sum(sizes.values()) - sum(known.values())}


def stacked(timeline: list[Instant]) -> dict[str, list[int]]:
    """Upper edge in bytes of each cause's area, instant by instant; causes that never occur are left out.

    The last edge is what is allocated.
    """
    sizes = [by_cause(instant.bytes) for instant in timeline]
    edges = [dict(zip(size, accumulate(size.values()), strict=True)) for size in sizes]
    return {cause: [edge[cause] for edge in edges] for cause in (*CAUSES, OTHER) if any(size[cause] for size in sizes)}


def stretches(timeline: list[Instant]) -> list[Stretch]:
    """The parts of the update in order: forward, loss, layer backward, optimiser step; other phases by their own names.

    The loss begins where the last layer's forward pass ends, and its own backward pass belongs to it. Where the tape
    is in no phase of a step (`load`), the part before lasts.
    """
    phases = [instant.phase for instant in timeline]
    last_layer = max((index for index, phase in enumerate(phases) if phase == "layer forward"), default=-1)
    names: list[str] = []
    for index, phase in enumerate(phases):
        if phase in ("batch", "layer forward") or (phase == "forward" and index < last_layer):
            names.append("forward")
        elif phase in ("forward", "loss backward"):
            names.append("loss")
        else:
            names.append(names[-1] if phase == "load" and names else phase)
    groups = [list(group) for _, group in groupby(range(len(names)), key=names.__getitem__)]
    return [Stretch(names[group[0]], group[0], group[-1]) for group in groups]


def peak(timeline: list[Instant]) -> Peak:
    """The highest instant, the first of equals."""
    index = max(range(len(timeline)), key=lambda index: allocated(timeline[index]))
    return Peak(index, allocated(timeline[index]), timeline[index].phase)


def keeps_memory(timeline: list[Instant]) -> bool:
    """Whether the allocator reserves more than is allocated: the CPU's does not."""
    return any(instant.reserved_bytes > allocated(instant) for instant in timeline)


def about(preflight: Preflight) -> str:
    """What was predicted, and how its figure is to be read."""
    rows, tokens = preflight.batch.rows, preflight.batch.tokens
    what = ("pack" if preflight.batch.packed else "row") + ("" if rows == 1 else "s")
    size = "" if rows is None or tokens is None else f", {count(rows)} {what} of {count(tokens)} tokens"
    worst, where = preflight.memory.allocated_bytes or 0, preflight.memory.peak_phase
    earlier = f" The most of the whole run, {gib(worst)}, comes earlier ({where})."
    return (
        f"Computed before the run for the largest micro batch that its settings allow{size}. From left to right what "
        "the last micro step and its update allocate and free, in order: width is not time."
        + (earlier if worst > 1.01 * peak(preflight.memory.timeline).size else "")
    )


def table(timeline: list[Instant]) -> Table:
    """GiB by cause at the highest instant of each part of the update."""
    parts: dict[str, list[Instant]] = {}
    for name, first, last in stretches(timeline):
        parts.setdefault(name, []).extend(timeline[first : last + 1])
    highest = [part[peak(part).index] for part in parts.values()]
    sizes = [by_cause(instant.bytes) for instant in highest]
    present = [cause for cause in (*CAUSES, OTHER) if any(size[cause] for size in sizes)]
    rows = [[cause, *(_gib(size[cause]) for size in sizes)] for cause in present]
    rows.append(["allocated", *(_gib(allocated(instant)) for instant in highest)])
    if keeps_memory(timeline):
        rows.append(["reserved", *(_gib(instant.reserved_bytes) for instant in highest)])
    return Table("Largest in each part, GiB", list(parts), rows)


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f}" if size >= GIB / 200 else "< 0.01" if size else "–"


def summary(preflight: Preflight) -> str:
    """The timeline in one sentence."""
    timeline = preflight.memory.timeline
    index, size, phase = peak(timeline)
    at_peak = sorted(by_cause(timeline[index].bytes).items(), key=lambda item: -item[1])
    largest = ", ".join(f"{cause} {gib(bytes_)}" for cause, bytes_ in at_peak[:3] if bytes_)
    parts = [f"Predicted memory over one update: at most {gib(size)} allocated, in the {phase}: {largest}"]
    if keeps_memory(timeline):
        parts.append(f"reserved {gib(max(instant.reserved_bytes for instant in timeline))}")
    return "; ".join(parts)
