"""The pictures of `finetune lab classic`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.curation.classic_digits import SHARES, digits
from finetune.study import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAPS = {"tsne": "t-SNE", "pca": "first two principal components", "random": "random projection"}
TOLD = {
    "own": ("Isolation Forest, images it was fitted to", "C7"),
    "held_out": ("Isolation Forest, other images", "C0"),
    "knn": ("k-NN distance, other images", "C2"),
}


def plots(numbers: dict[str, Any], drawn: dict[str, np.ndarray]) -> list[Plot]:
    """Three maps of the digits; variance by component, and outliers by digit."""
    shown = "Digits in two dimensions: t-SNE, PCA and a random projection"
    told = "Variance explained by components, and ROC AUC of outliers by digit"
    return [
        Plot("maps", shown, lambda figure: draw_maps(figure, numbers["trustworthiness"], drawn), (9.0, 3.4)),
        Plot("digits", told, lambda figure: draw_digits(figure, numbers)),
    ]


def draw_maps(figure: Figure, trusted: dict[str, float], drawn: dict[str, np.ndarray]) -> None:
    """A panel for each map, a colour for each digit."""
    figure.set_dpi(200)  # of the dots, which are an image: as paths they take 860 kB
    panels = figure.subplots(1, len(MAPS))
    for axes, (name, title) in zip(panels, MAPS.items(), strict=True):
        at = drawn[name]
        dots = axes.scatter(at[:, 0], at[:, 1], c=digits()[1], cmap="tab10", vmin=-0.5, vmax=9.5, s=2, rasterized=True)
        axes.set_title(f"{title}\ntrustworthiness {trusted[name]:.2f}", fontsize=10)
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
    figure.colorbar(dots, ax=panels, ticks=range(10), label="digit")


def draw_digits(figure: Figure, numbers: dict[str, Any]) -> None:
    """Left the share of variance by components, right the outliers of each digit."""
    left, right = figure.subplots(1, 2)
    shares = numbers["explained"]
    left.plot(range(1, len(shares) + 1), shares)
    for share, number in zip(SHARES, numbers["components"], strict=True):
        left.plot([0, number, number], [share, share, 0], color="C3", linewidth=0.8)
        left.annotate(f"{number}", (number, 0.02), xytext=(2, 0), textcoords="offset points", color="C3")
    left.set(title="Share of the variance", xlabel="principal components", xlim=(0, 64), ylim=(0, 1.02))
    for name, (label, colour) in TOLD.items():
        found = numbers["outside"]
        right.plot(list(found), [one[name] for one in found.values()], "o", color=colour, label=label)
    right.set(title="Other digits told apart", xlabel="digit", ylabel="ROC AUC", xticks=range(10), ylim=(0.8, 1.01))
    right.legend(fontsize=8, loc="lower left")
