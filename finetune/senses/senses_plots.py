"""The pictures of `finetune lab senses`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.study import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plots(numbers: dict[str, Any]) -> list[Plot]:
    """Separation over the layers, and king on a plane."""
    return [
        Plot("layers", "Separation of senses by layer", lambda figure: draw_layers(figure, numbers)),
        Plot("king", "King where it stands", lambda figure: draw_king(figure, numbers), (5.0, 4.0)),
    ]


def draw_layers(figure: Figure, numbers: dict[str, Any]) -> None:
    """A thin line for each word, a thick one for the mean; 0.5 is what a vector without the sense gives."""
    axes = figure.subplots()
    layers = [one["separation"] for one in numbers["layers"].values()]
    for word in layers[0]:
        axes.plot([one[word] for one in layers], linewidth=0.9, alpha=0.8, label=word)
    axes.plot([sum(one.values()) / len(one) for one in layers], "k", linewidth=2.4, label="mean")
    axes.axhline(0.5, color="black", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(layers)), list(numbers["layers"]))
    axes.set(xlabel="the word's vector: static, before the first layer, after each", ylabel="separation (AUC)")
    figure.legend(loc="outside right upper")


def draw_king(figure: Figure, numbers: dict[str, Any]) -> None:
    """A dot for each sentence, a colour for each sense, a cross for its centroid."""
    axes = figure.subplots()
    for colour, (sense, places) in enumerate(numbers["map"].items()):
        across, up = zip(*places, strict=True)
        axes.plot(across, up, f"C{colour}o", label=sense)
        axes.plot(sum(across) / len(across), sum(up) / len(up), f"C{colour}X", markersize=12)
    axes.set(xlabel="first principal component", ylabel="second")
    axes.legend()
