"""Configurations with keys changed, and what runs with them cost: what advice and the search for the largest ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.config import RunConfig
from finetune.preflight.depth import Price, price
from finetune.spec import RunSpec, resolve

Changes = Mapping[str, Any]


class Prices:
    """Prices of a described run with keys changed; each is found once."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self._known: dict[frozenset, Price] = {}

    def __call__(self, changes: Changes) -> Price:
        """The price of the run with `changes`."""
        key = frozenset(changes.items())
        if key not in self._known:
            self._known[key] = price(resolve(changed(self.spec.config, changes), self.spec.device))
        return self._known[key]


def changed(config: RunConfig, changes: Changes) -> RunConfig:
    """`config` with `section.key` set to other values; a smaller or larger micro batch keeps the effective batch
    where it divides it."""
    changes = dict(changes)
    rows = changes.get("training.micro_batch_size")
    if rows is not None:
        changes["training.gradient_accumulation_steps"] = max(1, round(config.training.effective_batch_size / rows))
    for key, value in changes.items():
        section, name = key.split(".")
        part = getattr(config, section).model_copy(update={name: value})
        config = config.model_copy(update={section: part})
    return config


def words(config: RunConfig, changes: Changes) -> str:
    """Changes as they are written after a command, with what the effective batch asks of accumulation."""
    shown = dict(changes)
    if "training.micro_batch_size" in shown:
        steps = changed(config, changes).training.gradient_accumulation_steps
        if steps != config.training.gradient_accumulation_steps:
            shown["training.gradient_accumulation_steps"] = steps
    return " ".join(f"{key}={_plain(value)}" for key, value in shown.items())


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
