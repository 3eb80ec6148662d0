"""Deep Q-learning with and without each of its crutches, on CartPole with a small network, its alarms watched."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from finetune.rl import dqn
from finetune.rl.alarms import Alarms, measure

WHOLE = dqn.DQNSettings(
    steps=20_000,  # measured: the whole algorithm is at its best long before
    hidden=64,  # measured: a quarter of the width solves it too, several times as fast
    train_every=64,  # a quarter of the default's, and of its gradient steps: half a gradient step for a step, as there
    gradient_steps=32,
    target_every=32,  # still for one round of learning, as with the default settings
    evaluate_every=1_024,
)
CRUTCHES = {
    "whole": {},
    "not Double": {"double": False},
    "no target network": {"target_every": 0},
    "no replay": {"replay": False},
    "neither": {"target_every": 0, "replay": False},
}
"""What is changed in the settings."""


def watch(name: str, seed: int, **changed: Any) -> dict[str, list[float | None]]:
    """One training without solving as its end: `returns` of the evaluations, and the alarms beside them, by `steps`.
    What is not defined is None. `changed` are settings besides."""
    settings = dataclasses.replace(WHOLE, **CRUTCHES[name], **changed)
    alarms: list[Alarms] = []
    _, outcome = dqn.train(settings, seed, watch=lambda *now: alarms.append(measure(*now, seed)))
    columns = {field.name: [getattr(one, field.name) for one in alarms] for field in dataclasses.fields(Alarms)}
    columns["returns"] = [score for _, score in outcome.curve]
    return {key: [_written(value) for value in column] for key, column in columns.items()}


def _written(value: float) -> float | None:
    """As JSON can hold it: six significant digits, None for what is no number."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
