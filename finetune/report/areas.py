"""Figures of predicted memory: areas by cause over one update, and a bar of what fills the device at its peak."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from finetune.report.facts import Table
from finetune.report.schema import Instant, Preflight
from finetune.report.svg import INK, Curve, draw
from finetune.report.timeline import (
    GIB,
    Peak,
    Stretch,
    about,
    by_cause,
    keeps_memory,
    peak,
    stacked,
    stretches,
    summary,
    table,
)
from finetune.report.wording import gib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE, NARROW = (860, 360), (380, 340)
BAR_WIDE, BAR_NARROW = (860, 64), (380, 64)
NEAR = 1.5
"""A device with more than so many times the highest point would press the areas flat: the bar alone shows it."""
CHARACTER = 7.0
"""Width of a character of a label, in viewBox units, with some to spare."""
LINES = {"ink": ("-", 1.3), "held-out": ((0, (4, 3)), 1.4), "muted": ("-", 1.6)}


class PredictedMemory(NamedTuple):
    """What the pages show of a prediction: what it is of, in words, the figures, and their table."""

    about: str
    curves: list[Curve]
    table: Table


class Line(NamedTuple):
    """A line over the areas: its colour, its words, and bytes at each instant."""

    colour: str
    words: str
    sizes: list[int]


class Label(NamedTuple):
    """A name under the areas: its row, where it stands, in instants, and which side of it stands there."""

    words: str
    row: int
    at: float
    side: str


def predicted_memory(preflight: Preflight, measured: int | None = None) -> PredictedMemory | None:
    """The figures of a prediction beside the `measured` peak of its run, in bytes; None where there is no timeline."""
    timeline = preflight.memory.timeline
    if len(timeline) < 2 or not peak(timeline).size:
        return None
    curves = [_areas(preflight, measured), _bar(preflight)]
    return PredictedMemory(about(preflight), [c for c in curves if c], table(timeline))


def _areas(preflight: Preflight, measured: int | None) -> Curve:
    timeline = preflight.memory.timeline
    lines = _lines(preflight, measured)
    key = [(_colour(cause), cause) for cause in stacked(timeline)]
    key += [(line.colour, line.words) for line in lines]
    wide, narrow = (draw("timeline", size, _plot(timeline, lines, size[0])) for size in (WIDE, NARROW))
    return Curve("timeline", "Over one update, GiB", summary(preflight), key, wide, narrow)


def _lines(preflight: Preflight, measured: int | None) -> list[Line]:
    timeline, device = preflight.memory.timeline, preflight.memory.device_bytes
    lines = []
    if keeps_memory(timeline):
        lines.append(Line("ink", "reserved", [instant.reserved_bytes for instant in timeline]))
    if measured:
        lines.append(Line("held-out", f"measured peak of the run, {gib(measured)}", [measured] * len(timeline)))
    top = max([peak(timeline).size, *(max(line.sizes) for line in lines)])
    if device and device <= NEAR * top:
        lines.append(Line("muted", f"the device's {gib(device)}", [device] * len(timeline)))
    return lines


def _plot(timeline: list[Instant], lines: list[Line], width: int) -> Callable[[Axes], None]:
    highest, number = peak(timeline), len(timeline)
    top = max([highest.size * 1.18, *(size * 1.06 for line in lines for size in line.sizes)])

    def plot(axes: Axes) -> None:
        for cause, edge in reversed(stacked(timeline).items()):  # each covers the lower part of the one before
            _area(axes, edge, INK[_colour(cause)])
        for line in lines:
            dashes, thickness = LINES[line.colour]
            sizes = [size / GIB for size in line.sizes]
            axes.plot(sizes, color=INK[line.colour], linestyle=dashes, linewidth=thickness, drawstyle="steps-post")
        axes.set_xlim(0, number - 1)
        axes.set_ylim(0, top / GIB)
        axes.set_xticks([])
        _mark_peak(axes, highest, number)
        _mark_parts(axes, stretches(timeline), number, width)

    return plot


def _area(axes: Axes, edge: list[int], colour: str) -> None:
    """An edge's area down to zero; points on a level stretch are left out."""
    last = len(edge) - 1
    corners = [i for i, size in enumerate(edge) if i in (0, last) or not edge[i - 1] == size == edge[i + 1]]
    axes.fill([0, *corners, last], [0, *(edge[i] / GIB for i in corners), 0], color=colour, linewidth=0)


def _mark_peak(axes: Axes, highest: Peak, number: int) -> None:
    at = highest.index, highest.size / GIB
    axes.plot(*at, "o", markersize=5.5, color=INK["ink"], markeredgecolor=INK["paper"], zorder=4)
    side = "left" if highest.index < number / 2 else "right"
    behind = {"facecolor": INK["paper"], "edgecolor": "none", "alpha": 0.8, "pad": 1}
    words = f"{gib(highest.size)}, {highest.phase}"
    label = axes.annotate(
        words, at, (0, 8), textcoords="offset points", ha=side, weight="bold", bbox=behind, zorder=4, parse_math=False
    )
    label.set_in_layout(False)  # there is room for it above the areas


def _mark_parts(axes: Axes, parts: list[Stretch], number: int, width: int) -> None:
    """A bracket under each part, and its name."""
    unit = (number - 1) / (width - 50)  # instants to a viewBox unit; beside the areas stand the ticks
    for _, first, last in parts:
        left, right = max(first - 0.5, 0), min(last + 0.5, number - 1)
        if left:
            axes.axvline(left, color=INK["paper"], linewidth=1, zorder=1.5)  # over the areas, under the lines
        axes.plot(
            [left + unit, right - unit], [-0.025] * 2, transform=axes.get_xaxis_transform(), clip_on=False,
            color=INK["muted"], linewidth=2, solid_capstyle="butt",
        )  # fmt: skip
    for label in labels(parts, number, unit):
        at, down = (label.at, 0), (0, -12 - 16 * label.row)
        axes.annotate(
            label.words, at, down, ("data", "axes fraction"), "offset points", ha=label.side, va="top",
            color=INK["muted"], parse_math=False,
        )  # fmt: skip


def labels(parts: list[Stretch], number: int, unit: float) -> list[Label]:
    """The parts' names under `number` instants, of which `unit` take a unit of width: in the second row where a name is
    wider than its part, nowhere where the names before it leave no room."""
    placed, ends = [], [0.0, 0.0]
    for name, first, last in parts:
        room = len(name) * CHARACTER * unit
        row = int(room > last - first)
        begin = min(max((first + last - room) / 2, 0), number - 1 - room)
        if begin < ends[row]:
            continue
        ends[row] = begin + room
        at_edge = ends[row] >= number - 1
        placed.append(Label(name, row, number - 1 if at_edge else begin + room / 2, "right" if at_edge else "center"))
    return placed


def _bar(preflight: Preflight) -> Curve | None:
    """Causes at the worst instant, the rest of the process, and what is free, out of all that the device has."""
    memory = preflight.memory
    causes = {_colour(cause): size for cause, size in by_cause(memory.breakdown_bytes).items() if size}
    allocated, process, device = sum(causes.values()), memory.process_bytes or 0, memory.device_bytes or 0
    if not 0 < allocated <= process <= device:
        return None
    filled = [*causes.items(), ("other", process - allocated), ("rule", device - process)]
    wide, narrow = (draw("fill", size, _fill(filled)) for size in (BAR_WIDE, BAR_NARROW))
    key = [("other", f"rest of the process, {gib(process - allocated)}"), ("rule", f"free, {gib(device - process)}")]
    words = f"At the worst instant {gib(allocated)} allocated, {gib(process)} the process, of {gib(device)}"
    return Curve("fill", f"What fills the device's {gib(device)}", words, key, wide, narrow)


def _fill(parts: list[tuple[str, int]]) -> Callable[[Axes], None]:
    def plot(axes: Axes) -> None:
        left = 0
        for colour, size in parts:
            axes.barh(0, size / GIB, left=left / GIB, color=INK[colour], linewidth=0)
            left += size
        axes.set_xlim(0, left / GIB)
        axes.set_yticks([])
        axes.margins(y=0)

    return plot


def _colour(cause: str) -> str:
    """The name of its CSS variable."""
    return cause.replace(" ", "-")
