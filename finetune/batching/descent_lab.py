"""`finetune lab descent`: gradient descent, SGD and mini-batch SGD on two real problems, against their theory."""

from __future__ import annotations

from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from finetune.batching import descent_measures as measures
from finetune.batching.descent_plots import gap_plot, rate_plot, variance_plot
from finetune.batching.epochs_to_target import EPOCHS, METHODS, SEEDS, epoch_seconds, epochs_to_targets
from finetune.batching.problems import PENALTY, Problem, breast_cancer, diabetes
from finetune.batching.variance import example_variance
from finetune.study import Study, Table

TARGET_NAMES = [f"1e{round(np.log10(target))}" for target in measures.TARGETS]
QUESTION = "Full batch, single examples or mini-batches: how fast does each come how near the optimum?"


def run() -> Study:
    """Measures everything, in one thread: the products are small, and sums come out the same everywhere."""
    with threadpool_limits(1):
        logistic, ridge = problems = breast_cancer(), diabetes()
        variances, floors = measures.variances(logistic), measures.floors(ridge)
        decays = {problem.name: measures.decay(problem) for problem in problems}
        passes = {
            problem.name: {each.name: epochs_to_targets(problem, each) for each in METHODS} for problem in problems
        }
        numbers = {
            "problems": {problem.name: described(problem) for problem in problems},
            "variance": {at: [vars(row) | {"ratio": row.ratio} for row in rows] for at, rows in variances.items()},
            "contraction": {problem.name: measures.contraction(problem) for problem in problems},
            "decay": firsts(decays), "floor": floors, "passes": {name: firsts(runs) for name, runs in passes.items()},
            "epoch_seconds_here_and_now": {problem.name: seconds(problem) for problem in problems},
        }  # fmt: skip
    curves = {name: {method: curve for method, (_, curve) in runs.items()} for name, runs in passes.items()}
    plots = [gap_plot(curves), variance_plot(variances, logistic.n), rate_plot(decays, floors)]
    return Study("descent", QUESTION, settings(), numbers, tables(numbers), findings(numbers), plots)


def firsts(pairs: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """The figures of each, without its curve."""
    return {name: figures for name, (figures, _) in pairs.items()}


def settings() -> dict[str, Any]:
    """What was chosen, not measured."""
    return {
        "seed": measures.SEED, "penalty": PENALTY, "targets": measures.TARGETS, "epochs": EPOCHS,
        "seeds": {"epochs": SEEDS, "decay": measures.DECAY_SEEDS, "floor": measures.FLOOR_SEEDS},
        "updates": {"decay": measures.DECAY_UPDATES},
        "steps_times_L": {method.name: [float(f"{s:.3g}") for s in method.grid] for method in METHODS},
    }  # fmt: skip


def described(problem: Problem) -> dict[str, Any]:
    """Size, curvature and noise of a problem."""
    mu, smoothness = problem.extremes
    at_optimum = np.linalg.eigvalsh(problem.hessian(problem.optimum))
    return {
        "n": problem.n, "parameters": problem.x.shape[1], "mu": mu, "L": smoothness, "condition": smoothness / mu,
        "L_at_optimum": float(at_optimum[-1]), "gap_at_start": float(problem.gap(problem.start)),
        "variance_at_start": example_variance(problem.gradients(problem.start)),
        "variance_at_optimum": example_variance(problem.gradients(problem.optimum)),
    }  # fmt: skip


def seconds(problem: Problem) -> dict[str, float]:
    """Wall-clock seconds of an epoch by each method."""
    return {method.name: epoch_seconds(problem, method) for method in METHODS}


def tables(numbers: dict[str, Any]) -> list[Table]:
    """All tables; the last holds wall-clock seconds, which no page may quote, and has no name."""
    return [
        problem_table(numbers["problems"]), variance_table(numbers["variance"]),
        contraction_table(numbers["contraction"]), decay_table(numbers["decay"]), floor_table(numbers["floor"]),
        epoch_table(numbers["passes"]), second_table(numbers["passes"], numbers["epoch_seconds_here_and_now"]),
    ]  # fmt: skip


def problem_table(problems: dict[str, Any]) -> Table:
    columns = ["problem", "n", "parameters", "μ", "L", "L/μ", "L at w*", "f(0) − f*", "σ² at 0", "σ² at w*"]
    return Table("Two problems", columns, [[name, *row.values()] for name, row in problems.items()], "problems")


def variance_table(variance: dict[str, Any]) -> Table:
    columns = ["at", "b", "with: measured", "σ²/b", "ratio", "without: measured", "σ²/b · (n−b)/(n−1)", "ratio"]
    rows = []
    for point, measured in variance.items():
        for drawn, taken in zip(measured[::2], measured[1::2], strict=True):
            pair = [each[key] for each in (drawn, taken) for key in ("measured", "theory", "ratio")]
            rows.append([point, drawn["batch"], *pair])
    return Table("Variance of a batch's gradient (logistic), with and without replacement", columns, rows, "variance")


def contraction_table(contraction: dict[str, Any]) -> Table:
    columns = ["what a step leaves", "of", "bound 1 − μ/L", "worst step", "median step", "steps"]
    rows = [
        [name, of, row["bound"], row[f"{of}_worst"], row[f"{of}_median"], row[f"{of}_steps"]]
        for name, row in contraction.items()
        for of in ("gap", "distance")
    ]
    return Table("Gradient descent with step 1/L", columns, rows, "rate")


def decay_table(decay: dict[str, Any]) -> Table:
    columns = ["problem", "exponent", "± (95 %)", "γ", "gap · (k + γ), of its limit"]
    keys = ("exponent", "half_width", "shift", "of_limit")
    rows = [[name, *(row[key] for key in keys)] for name, row in decay.items()]
    return Table("SGD, b = 1, with the step 2 / (μ (k + γ))", columns, rows, "decaying")


def floor_table(floor: list[dict[str, Any]]) -> Table:
    columns = ["step α", "b", "measured", "theory", "ratio", "α σ²/4b", "shuffled epochs"]
    keys = ("first_order", "shuffled")
    rows = [
        [row["step"], row["batch"], row["measured"], row["exact"], row["measured"] / row["exact"], *map(row.get, keys)]
        for row in floor
    ]
    return Table("Gap that a constant step ends with (ridge)", columns, rows, "floor")


def epoch_table(passes: dict[str, Any]) -> Table:
    columns = ["method", "problem", *(f"gap ≤ {target}" for target in TARGET_NAMES)]
    rows = [[method, name, *run["epochs"]] for name, runs in passes.items() for method, run in runs.items()]
    return Table(f"Epochs to a gap relative to the first (– not within {EPOCHS})", columns, rows, "epochs")


def second_table(passes: dict[str, Any], epoch_seconds: dict[str, Any]) -> Table:
    columns = ["method", "problem", "ms an epoch", *(f"gap ≤ {target}" for target in TARGET_NAMES)]
    rows = []
    for name, runs in passes.items():
        for method, run in runs.items():
            each = 1000 * epoch_seconds[name][method]
            rows.append([method, name, each, *(epochs and epochs * each for epochs in run["epochs"])])
    return Table("Milliseconds to the same gaps, of one run, measured here and now", columns, rows)


def findings(numbers: dict[str, Any]) -> list[str]:
    """What the figures say."""
    variance = [row["ratio"] for rows in numbers["variance"].values() for row in rows]
    exact = [row["measured"] / row["exact"] for row in numbers["floor"]]
    found = [
        f"Measured variance over theory lies between {min(variance):.3f} and {max(variance):.3f}.",
        f"Floors of constant steps over theory lie between {min(exact):.3f} and {max(exact):.3f}.",
    ]
    for name, row in numbers["contraction"].items():
        found.append(f"{name}: no step 1/L left more than {row['gap_worst']:.4f} of the gap, bound {row['bound']:.4f}.")
    for name, row in numbers["decay"].items():
        found.append(
            f"{name}: with a decaying step the gap falls as k^{row['exponent']:.2f} ± {row['half_width']:.2f}."
        )
    for name, runs in numbers["passes"].items():
        found += [f"{name}, gap {label}: {lead(runs, column)}" for column, label in enumerate(TARGET_NAMES)]
    for name, each in numbers["epoch_seconds_here_and_now"].items():
        times = each["SGD, b = 1"] / each["gradient descent"]
        found.append(f"{name}: an epoch of single examples took {times:,.0f} times one full batch, here and now.")
        best = [fastest(numbers["passes"][name], each, column) for column in range(len(TARGET_NAMES))]
        found.append(f"{name}: in seconds the first to {', '.join(TARGET_NAMES)} were: {'; '.join(best)}.")
    return found


def lead(runs: dict[str, Any], column: int) -> str:
    """Epochs of the best stochastic method and of gradient descent."""
    reached = {method: run["epochs"][column] for method, run in runs.items() if run["epochs"][column] is not None}
    full = reached.pop("gradient descent")
    best = min(reached, key=reached.__getitem__, default=None)
    other = f"{best} {reached[best]:g}" if best else f"no other within {EPOCHS}"
    return f"epochs of gradient descent {full:g}, {other}."


def fastest(runs: dict[str, Any], epoch_seconds: dict[str, float], column: int) -> str:
    """The method that took the least time to a target."""
    reached = {name: run["epochs"][column] for name, run in runs.items() if run["epochs"][column] is not None}
    return min(reached, key=lambda name: reached[name] * epoch_seconds[name])
