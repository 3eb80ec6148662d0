"""Tables and the picture of docs/speed.md, of what speed.py, profile_step.py and long_context.py measured."""

from __future__ import annotations

import io
import json
import statistics
from pathlib import Path
from typing import Any

import kept_layers
import long_context
import profile_step
import speed
import speed_axolotl
import speed_parts

RESULTS = Path(__file__).resolve().parent / "results"


def load(name: str) -> dict[str, Any]:
    """A committed result."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def tables() -> dict[str, str]:
    """Each table by the name of its place."""
    profiled = load("profile_step")
    profile = f"{profile_step.table(profiled)}\n\n{profile_step.summary(profiled)}."
    return {
        "parts": speed_parts.table(load("speed_parts")),
        "beside": speed.table(load("speed")),
        "axolotl": speed_axolotl.table(load("speed_axolotl")),
        "profile": profile,
        **kept_layers.tables(),
        **long_context.tables(),
    }


def brief() -> str:
    """The table of the README."""
    result, ways = load("speed"), (speed.PLAIN, "TRL + PEFT, best flags", speed.OURS)
    lines = [f"| tokens/s | {' | '.join(ways)} |", "| :--- | ---: | ---: | ---: |"]
    for kind, label in (("short", "short rows"), ("full", "rows that fill every sequence")):
        rates = [statistics.median(result[kind][name]["tokens_per_second"]) for name in ways]
        lines.append(f"| {label} | {' | '.join(f'{rate:.0f}' for rate in rates)} |")
    return "\n".join(lines)


def picture(parity: dict[str, Any], digest: str) -> str:
    """An SVG of the losses of plain TRL and of finetune, laid over; it names `digest`."""
    import matplotlib.style
    from matplotlib.figure import Figure

    out = io.StringIO()
    with matplotlib.style.context(["default", {"svg.hashsalt": digest, "font.size": 10}]):
        figure = Figure(figsize=(7, 3.2), layout="constrained")
        axes, losses = figure.subplots(), parity["losses"]
        updates = range(1, parity["steps"] + 1)
        axes.plot(updates, losses["plain_trl"], color="#e0a030", linewidth=6, label="plain TRL + PEFT")
        axes.plot(updates, losses["finetune"], color="#204060", linewidth=1.5, label="finetune")
        axes.set(xlabel="update", ylabel="loss, nats a token", xlim=(1, parity["steps"]))
        axes.legend(frameon=False)
        figure.savefig(out, format="svg", metadata={"Date": None, "Description": digest})
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
