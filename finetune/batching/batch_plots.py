"""The pictures of `finetune lab batch`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from finetune.batching.time_to_target import TARGET, Knee
from finetune.study import Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RULES = {"none": ("step as it was", "C7"), "sqrt": ("times √k", "C0"), "linear": ("times k", "C3")}
BEST = ("best step of a grid", "C2")
LINEAR_BELOW = 0.003
"""Gaps are drawn on a logarithmic axis, and on a linear one below this: some are negative."""


def plots(numbers: dict[str, Any]) -> list[Plot]:
    """Gap by rule and factor; gap with and without warm-up, and by updates; time to target."""
    drawn: dict[str, tuple[str, Callable[[Figure, dict[str, Any]], None]]] = {
        "rules": ("Loss gap against the factor k in batch, for each rule", draw_rules),
        "warmup": ("Loss gap with and without warm-up, and with few updates", draw_warmup),
        "time": ("Updates and examples to a target loss against the batch", draw_time),
    }
    return [Plot(name, title, lambda figure, draw=draw: draw(figure, numbers)) for name, (title, draw) in drawn.items()]


def draw_rules(figure: Figure, numbers: dict[str, Any]) -> None:
    """A panel for each optimiser."""
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name in zip(panels, ("sgd", "adam"), strict=True):
        gaps = numbers[name]["gaps"]
        for rule, (label, colour) in {**RULES, "best": BEST}.items():
            style = "--" if rule == "best" else "-"
            draw_gaps(axes, {k: found[rule] for k, found in gaps.items()}, label, colour, style)
        axes.set(title={"sgd": "SGD", "adam": "Adam"}[name], xlabel="k: batch over the reference's")
    panels[0].set_ylabel("loss beyond the reference's")
    panels[0].legend()


def draw_warmup(figure: Figure, numbers: dict[str, Any]) -> None:
    """Left with and without warm-up, right with few updates."""
    left, right = figure.subplots(1, 2)
    ways = {"without": ("without warm-up", "C3"), "with": ("with warm-up", "C0")}
    starts = {"he": ("He's weights", "--"), "steep": ("twice He's weights", "-")}  # the last sets the ticks
    for start, (beginning, style) in starts.items():
        for way, (label, colour) in ways.items():
            gaps = {k: found[way] for k, found in numbers["warmup"][start]["gaps"].items()}
            draw_gaps(left, gaps, f"{label}, {beginning}", colour, style)
    for name, label, colour in (("sgd", "SGD, step times k", "C3"), ("adam", "Adam, step times √k", "C0")):
        draw_gaps(right, numbers[name]["few"], label, colour, "-")
    left.set(title="Warm-up", xlabel="k: batch over the reference's", ylabel="loss beyond the reference's")
    right.set(title="Few updates", xlabel="updates in all")
    left.legend(fontsize=8)
    right.legend()


def draw_gaps(axes: Axes, gaps: dict[int, Any], label: str, colour: str, style: str) -> None:
    """Gaps with their spread."""
    means, spreads = [gap.mean for gap in gaps.values()], [gap.spread for gap in gaps.values()]
    axes.errorbar(list(gaps), means, spreads, label=label, color=colour, linestyle=style, marker="o", markersize=3)
    axes.set_xscale("log", base=2)
    axes.set_yscale("symlog", linthresh=LINEAR_BELOW)
    ticks = [-0.01, 0, 0.01, 0.1, 1, 10]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks(list(gaps), [str(x) for x in gaps])


def draw_time(figure: Figure, numbers: dict[str, Any]) -> None:
    """Updates and examples, the fit, the knee and the noise scale."""
    time, panels = numbers["time"], figure.subplots(1, 2)
    knee, runs = Knee(time["fewest_updates"], time["knee"]), time["runs"]
    for axes, what in zip(panels, ("updates", "examples"), strict=True):
        fitted = [knee.updates(b) * (b if what == "examples" else 1) for b in runs]
        axes.loglog(list(runs), [run[what] for run in runs.values()], "o", color="C0", label="measured")
        axes.loglog(list(runs), fitted, color="C0", label="fitted")
        axes.axvline(time["knee"], color="C3", label=f"knee, {time['knee']:.0f}")
        axes.axvline(time["noise_scale"], color="C2", linestyle="--", label=f"noise scale, {time['noise_scale']:.0f}")
        axes.set(xlabel="batch", title=f"{what} to a loss of {TARGET}".capitalize())
    panels[0].legend()
