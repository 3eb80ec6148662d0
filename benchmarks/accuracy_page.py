"""What docs/preflight.md shows of results/preflight_accuracy.json: tables and a picture. Imports no torch."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Results = dict[str, Any]

LOSSES = {"full_logits": "full logits", "fused_linear": "fused loss"}
GIB = 2**30
COLOURS = ("#1f5fa8", "#c8591b", "#3c8a4c", "#7a4fa3")
FURTHEST = 6
"""Rows that the table of the largest errors has."""


def tables(results: Results) -> dict[str, str]:
    """Markdown tables by the name of their place in the page."""
    return {"summary": _summary(results), "furthest": _furthest(results), "fused": _fused(results)}


def _summary(results: Results) -> str:
    head = ["figure", "rows", "source", "runs", "median", "95th percentile", "worst"]
    rows = [
        [
            line["figure"], LOSSES[line["loss"]], line["source"], str(line["runs"]),
            *(f"{line[name]:.2%}" + _goal(line, name) for name in ("median", "p95", "worst")),
        ]
        for line in results["summary"]
    ]  # fmt: skip
    skipped = len(results["skipped"])
    return f"{_table(head, rows, right=3)}\n\n{len(results['runs'])} runs; {skipped} skipped, whose loss is not ours."


def brief(results: Results) -> str:
    """The table of README.md: what a reader wants to know first."""
    head = ["predicted bytes", "runs", "median error", "95 % of runs within", "worst"]
    words = {
        ("allocated", "full_logits"): "allocated at the peak",
        ("allocated", "fused_linear"): "the same, runs with other fused kernels than ours",
        ("process", "full_logits"): "whole process, torch's allocator at its default",
    }
    lines = {(line["figure"], line["loss"]): line for line in results["summary"] if line["source"] == "all sources"}
    rows = [
        [text, str(lines[key]["runs"]), *(f"{lines[key][name]:.2%}" for name in ("median", "p95", "worst"))]
        for key, text in words.items()
    ]
    return _table(head, rows, right=1)


def _goal(line: Results, name: str) -> str:
    return f" (≤ {line['goal'][name]:.1%})" if name in line["goal"] else ""


def _furthest(results: Results) -> str:
    """The largest errors with full logits, of allocated and of process bytes."""
    head = ["figure", "run", "predicted", "measured", "error"]
    rows = []
    for figure in ("allocated", "process"):
        runs = [run for run in results["runs"] if run["loss"] == "full_logits" and figure in run["errors"]]
        for run in sorted(runs, key=lambda run: -abs(run["errors"][figure]))[: FURTHEST // 2]:
            rows.append([figure, _what(run), *_pair(run, figure), f"{run['errors'][figure]:+.2%}"])
    return _table(head, rows, right=2)


def _fused(results: Results) -> str:
    head = ["run", "predicted", "measured", "error", "without the norms' copies"]
    rows = [
        [_what(run), *_pair(run, "allocated"), f"{run['errors']['allocated']:+.2%}", f"{run['without_norms']:+.2%}"]
        for run in results["runs"]
        if run["loss"] == "fused_linear"
    ]
    return _table(head, rows, right=1)


def _what(run: Results) -> str:
    batch, tokens = run["batch"]
    base = {"nf4": "NF4", "none": "16 bits"}.get(run["quantization"], run["quantization"])
    return f"{run['model']}, {base}, {run['attention'].replace('_', ' ')}, {batch} × {tokens:,}, {run['gpu']}"


def _pair(run: Results, figure: str) -> tuple[str, str]:
    return f"{run['predicted'][figure] / GIB:.3f} GiB", f"{run['measured'][figure] / GIB:.3f} GiB"


def _table(head: list[str], rows: list[list[str]], *, right: int) -> str:
    """Markdown, with the columns from number `right` on aligned to the right."""
    rule = ["---" if column < right else "---:" for column in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def picture(results: Results, digest: str) -> str:
    """An SVG of predicted against measured bytes on logarithmic axes, allocated and process; it names `digest`."""
    import matplotlib.style
    from matplotlib.figure import Figure

    out = io.StringIO()
    with matplotlib.style.context(["default", {"svg.hashsalt": digest, "font.size": 10}]):
        figure = Figure(figsize=(9, 4.7), layout="constrained")
        for axes, name in zip(figure.subplots(1, 2), ("allocated", "process"), strict=True):
            _plot(axes, results["runs"], name)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        figure.savefig(out, format="svg", metadata={"Date": None, "Description": digest})
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _plot(axes: Axes, runs: list[Results], figure: str) -> None:
    runs = [run for run in runs if figure in run["errors"]]
    values = [run[side][figure] / GIB for run in runs for side in ("predicted", "measured")]
    ends = (min(values) / 1.2, max(values) * 1.2)
    axes.plot(ends, ends, color="#555555", linewidth=0.8)
    axes.fill_between(ends, [0.9 * end for end in ends], [1.1 * end for end in ends], color="#eeeeee", label="± 10 %")
    for source, colour in zip(dict.fromkeys(run["source"] for run in runs), COLOURS, strict=False):
        for loss, marker in (("full_logits", "o"), ("fused_linear", "^")):
            chosen = [run for run in runs if (run["source"], run["loss"]) == (source, loss)]
            if chosen:
                x, y = ([run[side][figure] / GIB for run in chosen] for side in ("measured", "predicted"))
                label = f"{source}, {LOSSES[loss]}"
                axes.scatter(x, y, s=26, marker=marker, facecolors="none", edgecolors=colour, label=label)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal", title=f"{figure} bytes at the peak")
    axes.set(xlabel="measured, GiB", ylabel="predicted, GiB")
    for axis in (axes.xaxis, axes.yaxis):
        ticks = [tick for tick in (1, 2, 4, 8, 16, 32, 64, 128) if ends[0] <= tick <= ends[1]]
        axis.set_ticks(ticks, [str(tick) for tick in ticks])
        axis.set_ticks([], minor=True)
