"""How many layers are computed again in the backward pass: as few as the memory allows."""

from __future__ import annotations

import dataclasses

from finetune.preflight.changes import changed
from finetune.preflight.depth import Split, price
from finetune.preflight.prediction import ERRORS
from finetune.spec import RunSpec, resolve

KEY = "training.gradient_checkpointing"
ROOM = ERRORS["process"]
"""Share of the memory that stays free where activations are kept: a third less compute is not worth a lost night, and
so far has the process of a measured run been off."""


def decide_recomputing(spec: RunSpec, decided: bool | int | str | None = None) -> RunSpec:
    """`spec` with `training.gradient_checkpointing: auto` decided, or as an earlier process of the run `decided`."""
    if spec.config.training.gradient_checkpointing != "auto":
        return spec
    value = _fewest(spec) if decided is None else decided
    return dataclasses.replace(spec, config=changed(spec.config, {KEY: value}))


def _fewest(spec: RunSpec) -> bool | int:
    allowed = spec.device.memory_bytes * (1 - ROOM)
    # Offloading moves what is kept, and so all activations where nothing is recomputed.
    if spec.config.training.activation_offloading:
        return True
    if price(resolve(changed(spec.config, {KEY: False}), spec.device)).process <= allowed:
        return False
    if price(spec).process > allowed:
        return True
    split = Split.of(spec)
    fits = (count for count in range(1, spec.layers) if split and split.price(count).process <= allowed)
    return next(fits, True)
