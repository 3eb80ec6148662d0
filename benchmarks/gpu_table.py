"""The results of gpu_suite.py as one Markdown table, and how far the predictions are off."""

from __future__ import annotations

import statistics
from typing import Any

FIGURES = ("allocated", "reserved", "process")
GIB = 2**30


def table(results: list[dict[str, Any]]) -> str:
    """Predicted / measured GiB and the error of each figure, speed, and below it the errors over all lines."""
    head = ["line", *(f"{figure}, predicted / measured GiB" for figure in FIGURES), "tokens/s"]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1), *(_row(result) for result in results)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *(line for figure in FIGURES if (line := _summary(figure, results)))])


def _row(result: dict[str, Any]) -> list[str]:
    if result["status"] != "measured":
        return [result["name"], f"{result['status']}: {result['reason']}", "", "", ""]
    return [
        result["name"],
        *(_pair(result, figure) for figure in FIGURES),
        f"{result['speed']['tokens_per_second']:,.0f}",
    ]


def _pair(result: dict[str, Any], figure: str) -> str:
    measured = result["measured"][f"{figure}_bytes"]
    if "predicted" not in result:  # a peer's
        return "not measured" if measured is None else f"{measured / GIB:.3f}"
    predicted = result["predicted"][f"{figure}_bytes"]
    if measured is None:
        return f"{predicted / GIB:.3f} / not measured"
    return f"{predicted / GIB:.3f} / {measured / GIB:.3f} ({result['errors'][figure]:+.2%})"


def _summary(figure: str, results: list[dict[str, Any]]) -> str:
    """Median, 95th percentile and worst of the absolute errors of one figure, empty where there are none."""
    found = sorted(abs(result["errors"][figure]) for result in results if figure in result.get("errors", {}))
    if not found:
        return ""
    high = found[-1] if len(found) < 2 else statistics.quantiles(found, n=20, method="inclusive")[-1]
    return (
        f"{figure}: {len(found)} lines, error median {statistics.median(found):.2%}, 95th percentile {high:.2%}, "
        f"worst {found[-1]:.2%}  "
    )
