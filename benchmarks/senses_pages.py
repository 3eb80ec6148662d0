"""Tables and the picture of docs/fundamentals/word-senses.md that come from results/senses_wsd.json;
scripts/update_docs.py places them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.study import Plot, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parent / "results" / "senses_wsd.json"
WAYS = {
    "majority": "commonest sense",
    "sense_names": "sense names, no labelled sentence",
    "induced_senses": "induced senses, named by labels",
    "cosine_centroids": "nearest centroid, cosine",
    "one_nearest_row": "nearest sentence",
    "five_nearest_rows": "nearest five sentences",
    "bag_of_words": "bag of words",
    "senses": "`finetune senses fit`",
}
"""Ways to tell senses, as the page names them."""
TELLING = {"five_folds": "five folds", "book_left_out": "each book by the others"}


def load() -> dict[str, Any]:
    """The results, part by part."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def tables() -> list[Table]:
    """Every table, named senses-PLACE."""
    found = load()
    return [coarse_table(found["coarsewsd20"]), means_table(found["coarsewsd20"]), king_table(found["king_senses"]),
            pairs_table(found["minimal_pairs"])]  # fmt: skip


def coarse_table(part: dict[str, Any]) -> Table:
    """CoarseWSD-20 by word."""
    columns = [
        "word",
        "test rows",
        "commonest sense",
        "bag of words",
        "nearest sentence",
        "here",
        "95 % interval",
        "ARI",
    ]
    rows = []
    for word, one in part["words"].items():
        low, high = one["senses"]["accuracy_interval"]
        told = (f"{one['accuracy'][name]:.3f}" for name in ("majority", "bag_of_words", "one_nearest_row", "senses"))
        rows.append([word, one["senses"]["rows"], *told, f"{low:.3f} to {high:.3f}", f"{one['induced']['ari']:.2f}"])
    return Table("CoarseWSD-20", columns, rows, "senses-coarse")


def means_table(part: dict[str, Any]) -> Table:
    """Mean accuracy over words by way of telling."""
    rows = [[shown, f"{part['mean_accuracy'][name]:.3f}"] for name, shown in WAYS.items()]
    return Table("CoarseWSD-20, mean over words", ["", "accuracy"], rows, "senses-means")


def king_table(part: dict[str, Any]) -> Table:
    """king_senses, cross-validated in two ways."""
    rows = []
    for way, shown in TELLING.items():
        low, high = part[way]["senses"]["accuracy_interval"]
        told = (f"{part[way]['accuracy'][name]:.3f}" for name in ("majority", "bag_of_words", "senses"))
        rows.append([shown, part[way]["rows"], *told, f"{low:.3f} to {high:.3f}"])
    columns = ["told", "rows", "commonest sense", "bag of words", "here", "95 % interval"]
    return Table("Chess or not", columns, rows, "senses-chess")


def pairs_table(part: dict[str, Any]) -> Table:
    """Minimal pairs, all of them and the half that nothing was chosen on."""
    rows = []
    for half, shown in (("held", "kept back"), ("all", "all")):
        one = part[half]
        told = (f"{one['accuracy'][name]:.3f}" for name in ("majority", "bag_of_words", "glosses", "senses"))
        rows.append([shown, one["pairs"], *told, f"{one['both']:.3f}"])
    columns = ["", "pairs", "commonest sense", "bag of words", "definitions", "here", "both of a pair"]
    return Table("Minimal pairs", columns, rows, "senses-minimal")


def plots() -> list[Plot]:
    """Every picture, named as its file."""
    return [Plot("senses-words", "CoarseWSD-20 by word", draw_words, (9.0, 4.0))]


def draw_words(figure: Figure) -> None:
    """Accuracy by word with its interval, beside both baselines; words by the share of their commonest sense."""
    words = sorted(load()["coarsewsd20"]["words"].items(), key=lambda item: item[1]["accuracy"]["majority"])
    axes, places = figure.subplots(), np.arange(len(words))
    for name, mark, colour in (("majority", "_", "black"), ("bag_of_words", "s", "C1")):
        values = [one["accuracy"][name] for _, one in words]
        axes.plot(places, values, mark, color=colour, label=WAYS[name], markersize=5 if mark == "s" else 12)
    values = np.array([one["accuracy"]["senses"] for _, one in words])
    ends = np.array([one["senses"]["accuracy_interval"] for _, one in words]).T
    axes.errorbar(places, values, np.abs(ends - values), fmt="C0o", capsize=3, label="finetune senses fit")
    axes.set_xticks(places, [word for word, _ in words])
    axes.set(ylabel="accuracy", ylim=(None, 1.02))
    axes.legend(loc="lower right")
