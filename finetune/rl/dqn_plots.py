"""The pictures of `finetune lab dqn`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.study import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plots(numbers: dict[str, Any]) -> list[Plot]:
    """Baird's counterexample under each kind of update."""
    return [Plot("baird", "Baird's counterexample", lambda figure: draw_baird(figure, numbers))]


def draw_baird(figure: Figure, numbers: dict[str, Any]) -> None:
    """The largest value over sweeps, on a logarithmic axis; the truth is 0."""
    axes = figure.subplots()
    for name, one in numbers["baird"].items():
        axes.plot(range(0, 10 * len(one["path"]), 10), one["path"], label=name)
    axes.set(xlabel="sweeps", ylabel="largest value (true: 0)", yscale="log")
    axes.legend()
