"""Tables of docs/survival.md, from the committed results of chaos.py, faults.py, checkpoint_cost.py and guards.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def load(name: str) -> dict[str, Any]:
    """One of the results by the name of its script."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def tables() -> dict[str, str]:
    """Each table by the name of its place."""
    return {"chaos": chaos(load("chaos")), "faults": faults(load("faults")), "costs": costs()}


def chaos(results: dict[str, Any]) -> str:
    """Kills and runs of each scenario."""
    rows = [
        [one["scenario"], one["kills"], one["on_disk"], one["from_checkpoint"], f"{one['equal']} of {one['runs']}"]
        for one in results["scenarios"]
    ]
    heads = ["run", "kills", "inside an operation on the disk", "resumed from a checkpoint", "runs equal to the bit"]
    return _markdown(heads, rows)


def faults(results: dict[str, Any]) -> str:
    """Cases of each fault by how the run took it."""
    outcomes = list(dict.fromkeys(row["outcome"] for row in results["rows"]))
    found: dict[str, dict[str, int]] = {}
    for row in results["rows"]:
        cases = found.setdefault(row["fault"], dict.fromkeys(outcomes, 0))
        cases[row["outcome"]] += row["cases"]
    return _markdown(["fault", *outcomes], [[fault, *cases.values()] for fault, cases in found.items()])


def costs() -> str:
    """Seconds and shares of checkpoints and guards."""
    rows = [
        [f"a checkpoint, {name}", f"{one['checkpoint_bytes'] / 2**20:,.0f} MiB, {one['seconds_a_save']:.2f} s",
         f"{one['share']:.2%}"]
        for name, one in load("checkpoint_cost").items()
    ]  # fmt: skip
    guards = [[f"guards, {name}", f"an update of {one['seconds_with']:.2f} s", f"{one['share_inside']:.2%}"]
              for name, one in load("guards").items()]  # fmt: skip
    return _markdown(["what", "measured", "share of the time"], [*rows, *guards])


def _markdown(heads: list[str], rows: list[list[Any]]) -> str:
    lines = [heads, [":---" if not column else "---:" for column in range(len(heads))], *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
