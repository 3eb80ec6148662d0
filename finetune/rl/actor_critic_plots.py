"""The pictures of `finetune lab actor-critic`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.study import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plots(numbers: dict[str, Any]) -> list[Plot]:
    """Bias against variance, a curve for each critic."""
    return [Plot("bias", "Bias against variance by critic", lambda figure: draw_bias(figure, numbers))]


def draw_bias(figure: Figure, numbers: dict[str, Any]) -> None:
    """One curve for each critic, a point for each lambda; the ends are named."""
    axes = figure.subplots()
    for name, found in numbers["critics"].items():
        points = [(one["variance"], one["bias"]) for one in found.values()]
        axes.plot(*zip(*points, strict=True), "o-", label=name)
        if points[0][1] > 0.1:
            axes.annotate("λ = 0", points[0], textcoords="offset points", xytext=(6, 4))
    axes.set(xlabel="variance, in parts of the squared gradient", ylabel="bias, in parts of the gradient")
    axes.legend(title="the critic sees")
