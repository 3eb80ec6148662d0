"""The trials of a sweep: every combination of a grid, or values drawn at random, the same for the same seed.

All are known before the first one starts, so that each can be checked and priced. That is why searchers that choose the
next trial by the results of the last ones have no place here.
"""

from __future__ import annotations

import json
from typing import Any

from finetune.config import SweepConfig
from finetune.errors import ConfigError

Values = dict[str, Any]
"""A value for each searched key."""

FRUITLESS = 100
"""Rounds in a row that draw no new trial: there are no others, or they are hardly ever drawn."""


def draw(sweep: SweepConfig) -> list[Values]:
    """The values of each trial, no two the same. Raises ConfigError where Ray is missing."""
    require_ray()
    import numpy as np

    random = np.random.RandomState(sweep.seed)
    found: dict[str, Values] = {}
    drawn = any(isinstance(values, dict) for values in sweep.search.values())
    fruitless = 0
    while fruitless < FRUITLESS:
        before = len(found)
        for values in _round(sweep, random):
            found.setdefault(json.dumps(values, sort_keys=True), values)
            if drawn and len(found) == sweep.trials:
                return list(found.values())
        fruitless = 0 if len(found) > before else fruitless + 1
        if not drawn:
            break
    return _some(list(found.values()), sweep.trials, random)


def require_ray() -> None:
    """Raises ConfigError, with what installs it, where Ray Tune cannot be imported."""
    try:
        import ray.tune.search.variant_generator  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"`finetune sweep` needs Ray Tune ({error})", "pip install 'finetune[ray]'") from None


def _round(sweep: SweepConfig, random: Any) -> list[Values]:
    """Every combination of the grid once, the other values drawn anew for each."""
    from ray import tune
    from ray.tune.search.variant_generator import generate_variants

    ways = {"uniform": tune.uniform, "loguniform": tune.loguniform}
    space: dict[str, Any] = {}
    for key, given in sweep.search.items():
        if isinstance(given, list):
            space[key] = tune.grid_search([_Kept(value) for value in given])
            continue
        ((way, values),) = given.items()
        space[key] = tune.choice([_Kept(value) for value in values]) if way == "choice" else ways[way](*values)
    made = [spec for _, spec in generate_variants(space, random_state=random)]
    return [{key: _plain(one[key]) for key in sweep.search} for one in made]


class _Kept:
    """A value that Ray takes as it is, where it would look for more to resolve inside lists and mappings."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, _Kept) else float(value)


def _some(all_of_them: list[Values], number: int | None, random: Any) -> list[Values]:
    """That many, in the order of the grid; all where there are no more."""
    if number is None or number >= len(all_of_them):
        return all_of_them
    return [all_of_them[at] for at in sorted(random.choice(len(all_of_them), number, replace=False))]
