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
    where it divides it, and shorter completions leave their prompts as much room as before."""
    changes = dict(changes)
    rows, completion = changes.get("training.micro_batch_size"), changes.get("rollout.max_completion_length")
    if completion is not None and "data.max_length" not in changes:
        changes["data.max_length"] = config.data.max_length - config.rollout.max_completion_length + completion
    if rows is not None and "training.gradient_accumulation_steps" not in changes:
        changes["training.gradient_accumulation_steps"] = max(1, round(config.training.effective_batch_size / rows))
    for key, value in changes.items():
        section, name = key.split(".")
        part = getattr(config, section).model_copy(update={name: value})
        config = config.model_copy(update={section: part})
    return config


def words(config: RunConfig, changes: Changes) -> str:
    """Changes as they are written after a command, with what follows from them for other keys."""
    shown, after = dict(changes), changed(config, changes)
    for section, name in (("training", "gradient_accumulation_steps"), ("data", "max_length")):
        value = getattr(getattr(after, section), name)
        if value != getattr(getattr(config, section), name):
            shown[f"{section}.{name}"] = value
    return " ".join(f"{key}={_plain(value)}" for key, value in shown.items())


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
