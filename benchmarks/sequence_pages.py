"""Tables and pictures of docs/fundamentals that come from results/sequence_costs.json; scripts/update_docs.py places
them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from finetune.sequence.measure import KINDS
from finetune.sequence.sequence_lab import exponents
from finetune.sequence.sequence_plots import draw_growth, draw_recall
from finetune.study import Plot, Table

RESULTS = Path(__file__).resolve().parent / "results" / "sequence_costs.json"


def load() -> dict[str, Any]:
    """The results, part by part."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def tables() -> list[Table]:
    """Every table, named sequence-PLACE."""
    found = load()
    return [growth_table(found["growth"]), seconds_table(found["growth"]), overtaking_table(found["overtaking"]),
            waiting_table(found["waiting"]), recall_table(found["recall"])]  # fmt: skip


def growth_table(part: dict[str, Any]) -> Table:
    """Exponents."""
    sizes = part["sizes"]
    return exponents(part["growth"], f"Exponents from {sizes[0]:,} to {sizes[-1]:,} tokens", "sequence-exponents")


def seconds_table(part: dict[str, Any]) -> Table:
    """Time and memory of a training pass over the shortest and the longest."""
    rows = []
    for kind in KINDS:
        trained = part["growth"][kind]["forward and backward"]
        times, sizes = ([values[0], values[-1]] for values in (trained["seconds"], trained["bytes"]))
        rows.append([kind, *(f"{1e3 * time:,.0f}" for time in times), *(f"{size / 2**20:,.1f}" for size in sizes)])
    ends = (part["sizes"][0], part["sizes"][-1])
    columns = ["", *(f"ms, {tokens:,} tokens" for tokens in ends), *(f"MiB, {tokens:,} tokens" for tokens in ends)]
    return Table("A training pass", columns, rows, "sequence-seconds")


def overtaking_table(part: dict[str, Any]) -> Table:
    """Tokens from which one takes longer than the other."""
    columns = ["attention", "mixing over its projections", "over rnn", "over gru", "over lstm"]
    names = ("{}: mixing over projections", "{} over rnn", "{} over gru", "{} over lstm")
    rows = [[kind, *(tokens(part, name.format(kind)) for name in names)] for kind in KINDS[:4]]
    return Table("Tokens from which attention takes longer", columns, rows, "sequence-overtaking")


def tokens(part: dict[str, Any], name: str) -> str:
    """A crossing, to two digits: between measured sizes it is read off a line."""
    found, sizes = part["from_tokens"][name], part["sizes"]
    if found is None:
        return f"beyond {sizes[-1]:,}"
    return f"under {sizes[0]:,}" if found <= sizes[0] else f"{float(f'{found:.2g}'):,.0f}"


def waiting_table(part: dict[str, Any]) -> Table:
    """Time a token."""
    many = part["tokens"] // part["length"]
    columns = ["", f"1 x {part['tokens']:,} tokens, µs a token", f"{many} x {part['length']}, µs a token", "ratio"]
    rows = [
        [kind, f"{1e6 * one['one']:.1f}", f"{1e6 * one['many']:.1f}", f"{one['ratio']:.1f}"]
        for kind, one in part["seconds_a_token"].items()
    ]
    return Table("One long sequence against many short ones", columns, rows, "sequence-waiting")


def recall_table(part: dict[str, Any]) -> Table:
    """Accuracy by gap: the median over seeds, and all seeds where they part."""
    gaps = next(iter(part["models"].values()))["accuracy"]
    rows = [
        [name, one["parameters"], *(accuracy(values) for values in one["accuracy"].values())]
        for name, one in part["models"].items()
    ]
    return Table("Accuracy of recall", ["", "parameters", *(f"gap {gap}" for gap in gaps)], rows, "sequence-recall")


def accuracy(values: list[float]) -> str:
    """The median, with the least and the most where they differ by more than 0.05."""
    middle = f"{statistics.median(values):.2f}"
    return middle if max(values) - min(values) <= 0.05 else f"{middle} ({min(values):.2f} to {max(values):.2f})"


def plots() -> list[Plot]:
    """The lab's pictures, of the long measurements."""
    found = load()
    models = found["recall"]["models"]
    return [
        Plot("sequence-growth", "Time and memory", lambda figure: draw_growth(figure, found["growth"]), (9.0, 4.0)),
        Plot("sequence-recall", "Accuracy of recall", lambda figure: draw_recall(figure, models)),
    ]
