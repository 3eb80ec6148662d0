"""Tables and pictures of docs/fundamentals that come from results/rl_*.json; scripts/update_docs.py places them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.study import Plot, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parent / "results"
ENVIRONMENTS = {"cartpole": "CartPole-v1", "acrobot": "Acrobot-v1"}
PAGES = {
    "actor-critic": (
        "reinforce",
        "reinforce without a baseline",
        "actor-critic",
        "actor-critic, first choice",
        "sb3 a2c",
    ),
    "dqn": ("dqn", "sb3 dqn"),
}
"""Runs by the page that shows them."""
DRAWN = {"actor-critic": ("reinforce", "actor-critic", "sb3 a2c"), "dqn": ("dqn", "sb3 dqn")}
"""Those of them whose curves are drawn."""
TICKS = (3_000, 10_000, 30_000, 100_000, 300_000)
ALARMS = {
    "returns": "mean return",
    "doomed_value": "value of doomed states (true: 1)",
    "overestimation": "first value less return",
    "terminal_share": "terminal share of the replay",
}


def load(name: str) -> dict[str, Any]:
    """One of the results: CartPole-v1, Acrobot-v1, ablation."""
    return json.loads((RESULTS / f"rl_{name}.json").read_text(encoding="utf-8"))


def tables() -> list[Table]:
    """Every table, named PAGE-PLACE."""
    solved = [
        solved_table(page, place, load(env_id)) for page in PAGES for place, env_id in ENVIRONMENTS.items()
    ]  # fmt: skip
    return [*solved, ablation_table(load("ablation"))]


def solved_table(page: str, place: str, results: dict[str, Any]) -> Table:
    """Steps and seconds until solved, by algorithm."""
    rows = [[name, *solved_row(results["runs"][name])] for name in PAGES[page] if name in results["runs"]]
    columns = ["", "solved", "steps, median", "least", "most", "seconds, median", "µs a step"]
    return Table(f"{results['env']} until solved", columns, rows, f"{page}-{place}")


def solved_row(run: dict[str, Any]) -> list[Any]:
    """How many seeds solved it, and the steps and seconds of those that did."""
    steps = [at for at in run["solved_at"] if at]
    return [
        f"{len(steps)} of {len(run['solved_at'])}",
        int(run["median"]) if run["median"] else None,
        min(steps),
        max(steps),
        f"{statistics.median(run['seconds']):.1f}",
        f"{run['microseconds_a_step']:.0f}",
    ]


def ablation_table(results: dict[str, Any]) -> Table:
    """For each variant: solved or not, and medians over the seeds of the best return and of the worst of each alarm."""
    columns = ["", "solved", "best return", "last return", "doomed value", "overestimation", "terminal share, least"]
    rows = [[name, *ablation_row(runs)] for name, runs in results["variants"].items()]
    return Table("CartPole without the crutches", columns, rows, "dqn-ablation")


def ablation_row(runs: list[dict[str, list[float | None]]]) -> list[str]:
    """The row of a variant."""
    best = [max(run["returns"]) for run in runs]
    return [
        f"{sum(value >= 475 for value in best)} of {len(runs)}",
        f"{statistics.median(best):.0f}",
        f"{statistics.median(run['returns'][-1] for run in runs):.0f}",
        figure(largest(runs, "doomed_value")),
        figure(largest(runs, "overestimation")),
        f"{statistics.median(min(run['terminal_share']) for run in runs):.3f}",
    ]


def largest(runs: list[dict[str, list[float | None]]], alarm: str) -> float:
    """The median over the seeds of the largest value that an alarm has had."""
    return statistics.median(max(value for value in run[alarm] if value is not None) for run in runs)


def figure(value: float) -> str:
    """A number of one digit or of a hundred million."""
    return f"{value:.1f}" if abs(value) < 1000 else f"{value:.1e}".replace("e+0", "e")


def plots() -> list[Plot]:
    """Every picture, named as its file."""
    curves = [
        Plot(f"{page}-curves", "Returns over training", lambda made, page=page: draw_curves(made, page), (9.0, 4.0))
        for page in PAGES
    ]
    return [*curves, Plot("dqn-ablation", "Returns and alarms without the crutches", draw_ablation, (9.0, 6.0))]


def draw_curves(made: Figure, page: str) -> None:
    """A line for each seed, an environment beside the other; a dot where it was solved."""
    for axes, env_id in zip(made.subplots(1, 2), ENVIRONMENTS.values(), strict=True):
        for colour, name in enumerate(DRAWN[page]):
            for seed, curve in enumerate(load(env_id)["runs"][name]["curves"]):
                steps, scores = zip(*curve, strict=True)
                axes.plot(steps, scores, f"C{colour}", alpha=0.5, linewidth=0.8, label=None if seed else name)
                axes.plot(steps[-1], scores[-1], f"C{colour}o", markersize=3)
        axes.set(title=env_id, xlabel="environment steps", ylabel="mean return of 20 episodes", xscale="log")
        axes.set_xticks([tick for tick in TICKS if tick < 1.5 * axes.get_xlim()[1]], minor=False)
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter("{x:,.0f}")
    made.legend(*made.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(DRAWN[page]))


def draw_ablation(made: Figure) -> None:
    """A panel for each alarm, a colour for each variant, a line for each seed."""
    results = load("ablation")
    for axes, (alarm, title) in zip(made.subplots(2, 2).flat, ALARMS.items(), strict=True):
        for colour, (name, runs) in enumerate(results["variants"].items()):
            for seed, run in enumerate(runs):
                values = [float("nan") if value is None else value for value in run[alarm]]
                axes.plot(run["steps"], values, f"C{colour}", alpha=0.6, linewidth=0.8, label=None if seed else name)
        axes.set(xlabel="environment steps", title=title)
        _scaled(axes, alarm, 1 / (1 - results["settings"]["gamma"]))
    made.legend(*made.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(results["variants"]))


def _scaled(axes: Axes, alarm: str, bound: float) -> None:
    """Values that run away on a logarithmic scale, with the largest return there is."""
    if alarm in ("doomed_value", "overestimation"):
        axes.set_yscale("symlog", linthresh=1 if alarm == "doomed_value" else 100)
        axes.axhline(bound, color="black", linewidth=0.8, linestyle="--")
