"""The pictures of `finetune lab sequence`, and of the results of benchmarks/sequence_costs.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.study import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = {"dense": "C3-", "fused": "C1-", "window": "C0-", "linear": "C2-", "rnn": "C4:", "gru": "C5:", "lstm": "C7:"}


def plots(numbers: dict[str, Any]) -> list[Plot]:
    """Growth, and recall."""
    return [
        Plot("growth", "Time and memory of a training pass", lambda figure: draw_growth(figure, numbers), (9.0, 4.0)),
        Plot("recall", "Accuracy of recall", lambda figure: draw_recall(figure, numbers["recall"])),
    ]


def draw_growth(figure: Figure, numbers: dict[str, Any]) -> None:
    """Time and memory against tokens, on logarithmic axes: the slope is the exponent."""
    time, memory = figure.subplots(1, 2)
    for kind, passes in numbers["growth"].items():
        trained = passes["forward and backward"]
        time.plot(numbers["sizes"], [1e3 * value for value in trained["seconds"]], LINES[kind], marker=".", label=kind)
        memory.plot(numbers["sizes"], [value / 2**20 for value in trained["bytes"]], LINES[kind], marker=".")
    for axes, title in ((time, "milliseconds"), (memory, "MiB")):
        axes.set(xlabel="tokens", ylabel=title, xscale="log", yscale="log")
        axes.set_xticks(numbers["sizes"], [f"{size:,}" for size in numbers["sizes"]])
        axes.set_xticks([], minor=True)
    figure.legend(*time.get_legend_handles_labels(), loc="outside upper center", ncols=len(LINES))


def draw_recall(figure: Figure, recall: dict[str, Any]) -> None:
    """Accuracy against the gap: the mean over seeds, and each seed as a dot."""
    axes = figure.subplots()
    for colour, (name, one) in enumerate(recall.items()):
        gaps = [str(gap) for gap in one["accuracy"]]
        axes.plot(gaps, [sum(values) / len(values) for values in one["accuracy"].values()], f"C{colour}", label=name)
        for gap, values in one["accuracy"].items():
            axes.plot([gap] * len(values), values, f"C{colour}.")
    axes.set(xlabel="tokens between the pairs and the question", ylabel="accuracy", ylim=(0, 1.05))
    axes.legend()
