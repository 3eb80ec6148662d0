"""The pictures of `finetune lab descent`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.batching.descent_measures import TARGETS, Curve
from finetune.batching.variance import Variance
from finetune.study import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOOR = 1e-8
"""Relative gaps below are not drawn."""
POINTS = 150
"""Of a curve, evenly along the logarithmic axis."""


def gap_plot(curves: dict[str, dict[str, Curve]]) -> Plot:
    """Gap against epochs, a panel for each problem and a line for each method."""

    def draw(figure: Figure) -> None:
        for axes, (problem, methods) in zip(figure.subplots(1, len(curves), sharey=True), curves.items(), strict=True):
            for name, curve in methods.items():
                drawn = np.unique(np.searchsorted(curve.at, np.geomspace(curve.at[0], curve.at[-1], POINTS)))
                axes.loglog(curve.at[drawn], np.maximum(curve.gaps[drawn], FLOOR), label=name)
            for target in TARGETS:
                axes.axhline(target, color="grey", linewidth=0.7, linestyle=":")
            axes.set(title=f"{problem} regression", xlabel="epochs", ylim=(1e-7, 2))
        figure.axes[0].set_ylabel("gap, relative to the first")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)

    return Plot("gaps", "Gap against epochs: single examples lead at first, full batches at last", draw, (9.0, 4.8))


def variance_plot(variances: dict[str, list[Variance]], n: int) -> Plot:
    """Measured variance on both theory lines, a panel for each point where gradients were taken."""

    def draw(figure: Figure) -> None:
        for axes, (point, rows) in zip(figure.subplots(1, len(variances)), variances.items(), strict=True):
            batches = np.arange(1, n)
            with_all, without = (rows[replacement].theory for replacement in (0, 1))  # b = 1: σ² both
            axes.loglog(batches, with_all / batches, label="σ²/b")
            axes.loglog(batches, without / batches * (n - batches) / (n - 1), label="σ²/b · (n − b)/(n − 1)")
            for marker, replacement in (("o", True), ("s", False)):
                drawn = [(row.batch, row.measured) for row in rows if row.replacement is replacement]
                label = f"measured, {'with' if replacement else 'without'} replacement"
                axes.plot(*zip(*drawn, strict=True), marker, color="black", fillstyle="none", label=label)
            axes.set(title=f"at the {point}", xlabel="batch b", ylim=(rows[-1].measured / 3, with_all * 2))
        figure.axes[0].set_ylabel("E |g_B − g|²")
        figure.axes[0].legend()

    return Plot("variance", "Variance of a batch's gradient against its size", draw)


def rate_plot(decays: dict[str, tuple[dict[str, float], Curve]], floors: list[dict[str, Any]]) -> Plot:
    """SGD's gap with a decaying step against updates, and the floors of constant steps against the step."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for index, (problem, (figures, curve)) in enumerate(decays.items()):
            left.loglog(curve.at, curve.gaps, "o", color=f"C{index}", markersize=3, label=f"{problem}, measured")
            left.loglog(curve.at, figures["limit"] / curve.at, color=f"C{index}", label=f"{problem}, theory")
        left.set(title="decaying step, b = 1", xlabel="k + γ", ylabel="gap")
        left.xaxis.set_minor_formatter("")
        left.legend()
        for index, batch in enumerate(dict.fromkeys(row["batch"] for row in floors)):
            rows = [row for row in floors if row["batch"] == batch]
            steps, colour = [row["step"] for row in rows], f"C{index + 2}"
            right.loglog(steps, [row["exact"] for row in rows], color=colour, label=f"b = {batch}, theory")
            right.loglog(steps, [row["measured"] for row in rows], "o", color=colour)
            right.loglog(steps, [row["shuffled"] for row in rows], "x", color=colour)
        right.plot([], [], "o", color="grey", label="measured")
        right.plot([], [], "x", color="grey", label="shuffled epochs")
        right.set(title="constant step, ridge: floor", xlabel="step α", xlim=(0.008, 0.2))
        right.legend(loc="upper right")

    return Plot(
        "noise", "Gap of single examples with a decaying step, and the floor of a constant one", draw, (9.0, 4.2)
    )
