"""The pictures of `finetune lab reinforce`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.study import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plots(numbers: dict[str, Any]) -> list[Plot]:
    """Variance by baseline, and bias against variance along lambda."""
    return [
        Plot(
            "variance", "Variance of REINFORCE by what weighs its scores", lambda figure: draw_variance(figure, numbers)
        ),
        Plot("lambda", "Bias and variance of generalised advantages", lambda figure: draw_lambda(figure, numbers)),
    ]


def draw_variance(figure: Figure, numbers: dict[str, Any]) -> None:
    """A bar for each estimator; the biased one is grey."""
    axes = figure.subplots()
    found = numbers["estimators"]
    names = list(found)[::-1]
    colours = ["C7" if found[name]["bias"] else "C0" for name in names]
    axes.barh(names, [found[name]["variance"] for name in names], color=colours)
    axes.set(xlabel="variance, in parts of the squared gradient (grey: biased)")
    axes.grid(axis="y", visible=False)


def draw_lambda(figure: Figure, numbers: dict[str, Any]) -> None:
    """Two curves over lambda."""
    axes = figure.subplots()
    found = numbers["lambdas"]
    lams = [float(lam) for lam in found]
    axes.plot(lams, [one["variance"] for one in found.values()], "o-", label="variance, of the squared gradient")
    axes.plot(lams, [one["bias"] for one in found.values()], "s-", label="bias, of the gradient")
    axes.set(xlabel="λ", ylim=(0, None))
    axes.legend()
