"""`finetune lab dqn`: why a maximum over estimates is too high, why bootstrapping off-policy diverges, and what deep
Q-learning does without its crutches.

The first two are computed; the trainings are short, of one seed, and say what benchmarks/rl_ablation.py says at length.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch

from finetune.rl import baird
from finetune.rl.ablation import CRUTCHES, WHOLE, watch
from finetune.rl.dqn_plots import plots
from finetune.rl.maximisation import chosen, double
from finetune.study import Study, Table

QUESTION = "Why does deep Q-learning need a target network, replay and Double?"
NOISE, GAMMA = 1.0, 0.99
SAME = 0.5
"""How alike the noise of two networks is that differ by a little training, for the example."""
CASES = {
    "2 actions, alike": [0.0] * 2,
    "4 actions, alike": [0.0] * 4,
    "10 actions, alike": [0.0] * 10,
    "4 actions, one better by 1": [1.0, 0.0, 0.0, 0.0],
    "4 actions, one better by 4": [4.0, 0.0, 0.0, 0.0],
}
SWEEPS = (1, 10, 100, 1000)
PERIODS = (1, 10, 50, 100, 1000)
SEED, STEPS = 0, 4_096
SETTINGS = {
    "maxima": f"normal noise of standard deviation {NOISE:g}, by quadrature",
    "baird": f"expected updates, discount {baird.GAMMA}, step {baird.STEP}",
    "trainings": f"{WHOLE.env_id}, {STEPS:,} steps, {WHOLE.hidden} units a layer, seed {SEED}",
}


@cache
def run() -> Study:
    """Runs everything: about a quarter of a minute on one core."""
    numbers = {
        "maxima": {name: study_maximum(values) for name, values in CASES.items()},
        "baird": study_baird(),
        "held": {str(period): baird.growth(period) for period in PERIODS},
        "ablation": {name: watch(name, SEED, steps=STEPS) for name in CRUTCHES},
    }
    tables = [maximum_table(numbers), baird_table(numbers), held_table(numbers), ablation_table(numbers)]
    return Study("dqn", QUESTION, SETTINGS, numbers, tables, findings(numbers), plots(numbers))


def study_maximum(values: list[float]) -> dict[str, float]:
    """The largest true value, and what the maximum and Double's choice say of it on average."""
    values_A = torch.tensor(values, dtype=torch.float64)
    return {
        "true": max(values),
        "maximum": chosen(values_A, NOISE)[1],
        "alike": double(values_A, NOISE, SAME),
        "double": double(values_A, NOISE),
    }


def study_baird() -> dict[str, dict[str, Any]]:
    """The eighth weight after so many sweeps, and the largest real eigenvalue, by kind of update."""
    matrices = {
        "semi-gradient, off-policy": baird.semi_gradient(),
        "on-policy": baird.on_policy(),
        "residual gradient": baird.residual_gradient(),
        "no bootstrapping": baird.semi_gradient(gamma=0.0),
    }
    return {name: _followed(matrix) for name, matrix in matrices.items()}


def _followed(matrix: np.ndarray) -> dict[str, Any]:
    weights = baird.sweep(matrix, max(SWEEPS))
    largest = float(np.linalg.eigvals(matrix).real.max())
    return {
        "weight": {str(sweeps): float(weights[sweeps, 7]) for sweeps in SWEEPS},
        "value": float(np.abs(weights[-1] @ baird.features().T).max()),
        "eigenvalue": largest if abs(largest) > 1e-12 else 0.0,
        "path": [float(value) for value in np.abs(weights @ baird.features().T).max(1)[::10]],
    }


def maximum_table(numbers: dict[str, Any]) -> Table:
    """Truth and estimates by case."""
    rows = [
        [name, *(f"{one[key]:.3f}" for key in ("true", "maximum", "alike", "double"))]
        for name, one in numbers["maxima"].items()
    ]
    columns = ["true values", "largest", "maximum of estimates", f"Double, noise {SAME} alike", "Double, independent"]
    return Table("The value of the best action, as estimates with noise 1 have it", columns, rows, "maxima")


def baird_table(numbers: dict[str, Any]) -> Table:
    """The weight that diverges, by kind of update."""
    columns = ["updates", *(f"after {sweeps:,}" for sweeps in SWEEPS), "largest value", "largest real eigenvalue"]
    rows = [
        [
            name,
            *(f"{one['weight'][str(sweeps)]:.4g}" for sweeps in SWEEPS),
            f"{one['value']:.4g}",
            f"{one['eigenvalue']:+.3f}" if one["eigenvalue"] else "0",
        ]
        for name, one in numbers["baird"].items()
    ]
    return Table("Baird's counterexample: the eighth weight, from 1", columns, rows, "baird")


def held_table(numbers: dict[str, Any]) -> Table:
    """What a target network does to it."""
    rows = [[int(period), f"{factor:.4f}"] for period, factor in numbers["held"].items()]
    return Table("The same, the target held still", ["sweeps to a target", "error multiplied by"], rows, "held")


def ablation_table(numbers: dict[str, Any]) -> Table:
    """Each training's best return, and its alarms at the end."""
    columns = ["", "best return", "action gap", "doomed value", "terminal share", "overestimation"]
    keys = ("action_gap", "doomed_value", "terminal_share", "overestimation")
    rows = [[name, max(one["returns"]), *(one[key][-1] for key in keys)] for name, one in numbers["ablation"].items()]
    return Table(f"CartPole, {STEPS:,} steps: alarms at the end", columns, rows)


def findings(numbers: dict[str, Any]) -> list[str]:
    """What the tables say."""
    two, held = numbers["maxima"]["2 actions, alike"], numbers["held"]
    diverging = numbers["baird"]["semi-gradient, off-policy"]
    doomed = {name: one["doomed_value"][-1] for name, one in numbers["ablation"].items()}
    return [
        f"The maximum of two estimates of 0 is {two['maximum']:.3f} of their noise too high; bootstrapping adds "
        f"that up to {GAMMA / (1 - GAMMA):.0f} times as much. Double with independent networks is not too high.",
        f"Baird's eighth weight goes from 1 to {diverging['weight']['1000']:.1f} in 1,000 sweeps; with a target held "
        f"for 100 sweeps the error falls, times {held['100']:.3f}.",
        f"Doomed states, worth 1, are valued at {doomed['whole'] or float('nan'):.3g} with both crutches and at "
        f"{doomed['no target network'] or float('nan'):.3g} without a target network.",
    ]
