"""`finetune lab batch`: scaling rules of the learning rate holding and failing, and where a batch stops paying."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from finetune.batching import linear_rule as rules
from finetune.batching import time_to_target as target
from finetune.batching.batch_plots import plots
from finetune.batching.digits import HE, curvature, noise_scales, regression
from finetune.batching.linear_rule import Gap, Reference
from finetune.study import Study, Table

QUESTION = "How does the learning rate go with the batch size, when does that fail, and where does a batch stop paying?"
NEARBY = (0.5, 2.0, 4.0)
"""Steps of the reference run that are tried beside its own, in parts of it."""
STEEP = 3.0
"""Gain of the network that starts steep: about twice He's."""
STEEP_FACTORS, HE_FACTORS = (4, 8, 16, 32), (8, 16)
TIMID = 4
"""Divides the best step, for the noise scale along a timid run."""
SETTINGS = {
    "data": "scikit-learn digits, 1,797 images", "examples": rules.EXAMPLES, "seeds": rules.SEEDS,
    "sgd": "softmax regression from zero, b0 = 1, step 0.32", "adam": "the same, step 0.064, ε = 1e-4",
    "network": "ReLU, 64-64-64 hidden, b0 = 4, step 0.02, SGD", "steps": "fall linearly to zero",
    "target": f"loss {target.TARGET}, constant step, best of a grid, {target.SEEDS} seeds",
}  # fmt: skip


@cache
def run() -> Study:
    """Runs everything: about a minute on one core."""
    with one_thread():
        gaps = {"sgd": study_rules(rules.sgd(), "linear"), "adam": study_rules(rules.adam(), "sqrt")}
        warmup = {"steep": study_warmup(STEEP, STEEP_FACTORS), "he": study_warmup(HE, HE_FACTORS)}
        reached = [target.time_to_target(batch) for batch in target.BATCHES]
        knee = target.fitted_knee(reached)
        numbers = gaps | {"warmup": warmup, "time": study_time(reached, knee)}
    tables = [*(rule_table(name, numbers[name]) for name in gaps), few_table(numbers), warmup_table(warmup)]
    tables.append(time_table(reached, knee))
    return Study("batch", QUESTION, SETTINGS, as_json(numbers), tables, findings(numbers), plots(numbers))


@contextmanager
def one_thread() -> Iterator[None]:
    """Small batched products are faster on one thread than on several that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def study_rules(reference: Reference, rule: str) -> dict[str, Any]:
    """Gaps of all rules by factor, gaps of `rule` by updates, and the step that the curvature at the start allows."""
    tried = [reference.rate * part for part in (1.0, *NEARBY)]
    losses = reference.losses(1, tried, rules.EXAMPLES)
    own = losses[0]
    gaps = {k: rules.rule_gaps(reference, k, own) for k in rules.FACTORS}
    if rule == "sqrt":
        for k, found in gaps.items():
            found["whole"] = rules.whole_gap(reference, k, own)
    limit = 2 / float(curvature(reference.start).mean())
    return {
        "reference": float(own.mean()), "rate": reference.rate,
        "best_rate": tried[int(losses.mean(1).argmin())],
        "step_limit": limit, "rule": rule, "gaps": gaps,
        "few": rules.short_gaps(reference, rule),
    }  # fmt: skip


def study_warmup(gain: float, factors: Sequence[int]) -> dict[str, Any]:
    """Gaps with and without warm-up by factor, and the curvature that the runs start from."""
    reference = rules.steep(gain)
    own = reference.own(rules.EXAMPLES)
    return {
        "curvature": float(curvature(reference.start).median()),
        "reference": float(own.mean()),
        "gaps": {k: rules.warmup_gaps(reference, k, own) for k in factors},
    }


def study_time(reached: Sequence[target.Reached], knee: target.Knee) -> dict[str, Any]:
    """The curve, its knee, and the noise scale along the run whose batch is nearest to it, and along a timid one."""
    near = min(reached, key=lambda run: abs(math.log(run.batch / knee.batch)))
    timid = target.time_to_target(near.batch, [near.rate / TIMID])
    return {
        "runs": {
            run.batch: {
                "rate": run.rate, "updates": run.updates, "spread": run.spread, "examples": run.examples,
                "fitted": knee.updates(run.batch), "noise_scale": run.noise_scale,
            }
            for run in reached
        },
        "fewest_updates": knee.fewest, "fewest_examples": knee.fewest * knee.batch, "knee": knee.batch,
        "near": near.batch, "noise_scale": near.noise_scale, "noise_over_knee": near.noise_scale / knee.batch,
        "noise_at_start": float(noise_scales(regression(1))), "timid_noise_scale": timid.noise_scale,
        "timid_over_knee": timid.noise_scale / knee.batch, "timid_updates": timid.updates,
        "worst_fit": max(abs(knee.updates(run.batch) / run.updates - 1) for run in reached),
    }  # fmt: skip


def rule_table(name: str, found: dict[str, Any]) -> Table:
    """Gaps of every rule by factor."""
    heads = {"none": "step as it was", "sqrt": "√k", "whole": "√k, averages too", "linear": "k", "best": "best step"}
    shown = [rule for rule in heads if rule in found["gaps"][2]]
    rows = [[k, k, rules.EXAMPLES // k, *(str(gaps[rule]) for rule in shown)] for k, gaps in found["gaps"].items()]
    optimiser = {"sgd": "SGD", "adam": "Adam"}[name]
    columns = ["k", "batch", "updates", *(heads[rule] for rule in shown)]
    return Table(f"{optimiser}: loss beyond the reference's, mean over seeds ± spread", columns, rows, name)


def few_table(numbers: dict[str, Any]) -> Table:
    """Gaps by updates, at one factor."""
    both = zip(numbers["sgd"]["few"].items(), numbers["adam"]["few"].values(), strict=True)
    rows = [[updates, updates * rules.FEW, str(sgd), str(adam)] for (updates, sgd), adam in both]
    columns = ["updates", "examples", "SGD, step times k", "Adam, step times √k"]
    return Table(f"Fewer updates, {rules.FEW} times the batch: loss beyond the reference's", columns, rows, "few")


def warmup_table(warmup: dict[str, Any]) -> Table:
    """Gaps with and without warm-up."""
    starts = {"steep": "twice He's", "he": "He's"}
    rows = [
        [f"{label}, {warmup[name]['curvature']:.0f}", k, 4 * k, str(gaps["without"]), str(gaps["with"])]
        for name, label in starts.items()
        for k, gaps in warmup[name]["gaps"].items()
    ]
    columns = ["weights at the start, curvature", "k", "batch", "without warm-up", "with"]
    return Table("SGD on a network, step times k: loss beyond the reference's", columns, rows, "warmup")


def time_table(reached: Sequence[target.Reached], knee: target.Knee) -> Table:
    """Updates and examples to the target by batch."""
    rows = [
        [run.batch, f"{run.rate:.2f}", *whole(run.updates, knee.updates(run.batch), run.examples, run.noise_scale)]
        for run in reached
    ]
    columns = ["batch", "best step", "updates", "fitted", "examples", "noise scale on the way"]
    return Table(f"To a loss of {target.TARGET}", columns, rows, "time")


def whole(*values: float) -> list[int]:
    """To whole numbers: updates and examples."""
    return [round(value) for value in values]


def findings(numbers: dict[str, Any]) -> list[str]:
    """What came out, in sentences."""
    sgd, adam, time = numbers["sgd"]["gaps"], numbers["adam"]["gaps"], numbers["time"]
    steep = numbers["warmup"]["steep"]["gaps"][16]
    few = {name: next(iter(numbers[name]["few"].values())) for name in ("sgd", "adam")}
    return [
        f"SGD, 8 times the batch: step times 8 leaves {sgd[8]['linear']}, the old step {sgd[8]['none']}.",
        f"SGD, 256 times the batch: step times 256 leaves {sgd[256]['linear']}, the best step {sgd[256]['best']}.",
        f"Adam, 8 times the batch: step times √8 leaves {adam[8]['sqrt']}, times 8 {adam[8]['linear']}.",
        f"Adam, 256 times the batch: step times 16 leaves {adam[256]['sqrt']}.",
        f"16 times the batch from a steep start: {steep['without']} without warm-up, {steep['with']} with it.",
        f"8 updates in all: SGD {few['sgd']}, Adam {few['adam']}.",
        f"The knee is at {time['knee']:.0f} examples; the noise scale along the run of batch {time['near']} is "
        f"{time['noise_scale']:.0f}, and {time['timid_noise_scale']:.0f} with a {TIMID} times smaller step.",
    ]


def as_json(value: Any) -> Any:
    """Gaps as objects, keys as text."""
    if isinstance(value, Gap):
        return {"mean": value.mean, "spread": value.spread}
    return {str(key): as_json(inner) for key, inner in value.items()} if isinstance(value, dict) else value
