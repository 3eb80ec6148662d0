"""The file of `finetune sweep`: one run's configuration, tried with other values of some of its keys."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from finetune.config.sections import Name, Positive, Section

MOST_TRIALS = 1000
"""Each is a run directory and some seconds of pricing."""

DRAWS = ("uniform", "loguniform", "choice")
"""What values can be drawn from, beside the list that is a grid."""


def _space(values: Any) -> Any:
    """The values of one key: a list, or one way to draw them. Raises ValueError saying what is found instead."""
    if isinstance(values, list):
        return _some(values)
    if not isinstance(values, dict) or len(values) != 1 or next(iter(values)) not in DRAWS:
        ways = "a list of values, {uniform: [low, high]}, {loguniform: [low, high]} or {choice: [...]}"
        raise ValueError(f"expected {ways}; found {values!r:.100}")
    ((way, given),) = values.items()
    if way == "choice":
        return {way: _some(given)}
    if not _is_range(given):
        raise ValueError(f"{way} takes two numbers, the lower one first; found {given!r:.100}")
    if way == "loguniform" and given[0] <= 0:
        raise ValueError(f"loguniform takes numbers above 0; found {given[0]!r}")
    return values


def _some(values: Any) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"expected a list of at least one value; found {values!r:.100}")
    try:
        json.dumps(values, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(f"holds a value that no key takes, such as a date or infinity: {values!r:.100}") from None
    return values


def _is_range(given: Any) -> bool:
    numbers = isinstance(given, list) and all(
        isinstance(end, int | float) and not isinstance(end, bool) and math.isfinite(end) for end in given
    )
    return numbers and len(given) == 2 and given[0] < given[1]


class SweepConfig(Section):
    """Which keys of a configuration are tried with which values, and by what the runs are compared."""

    config: Name
    """YAML configuration of the run that every trial is, but for the keys of `search`."""
    search: Annotated[dict[str, Annotated[Any, AfterValidator(_space)]], Field(min_length=1)]
    """For each key, such as lora.r, its values: a list is a grid, of which every combination is tried; {uniform:
    [low, high]}, {loguniform: [low, high]} and {choice: [...]} are drawn anew for each trial."""
    trials: Annotated[int, Field(gt=0, le=MOST_TRIALS)] | None = None
    """Trials in all; of a grid with more combinations, that many drawn at random; null takes the whole grid, once."""
    metric: Literal["eval_loss", "eval_margin", "eval_accuracy", "eval_reward"] | None = None
    """Held-out figure that trials are compared by at their end: the smallest loss, or the largest of the others; null
    takes eval_loss for sft and dpo, eval_reward for rloo and grpo."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seed of the values that are drawn: the same seed gives the same trials."""
    concurrent: Positive | None = None
    """Trials at once; null takes one for each card, one on a CPU."""
    early_stopping: Literal["none", "asha"] = "none"
    """asha (Li et al. 2020, Ray's ASHAScheduler) stops the worse half of the trials at `grace_steps` updates, and again
    each time the updates have doubled; needs training.eval_steps."""
    grace_steps: Positive | None = None
    """Updates before which asha stops no trial; needed by it."""
    output_dir: Name
    """Directory of the trials' run directories and of the result; it must not hold a sweep yet."""

    @model_validator(mode="after")
    def _parts_agree(self) -> SweepConfig:
        drawn = [key for key, values in self.search.items() if isinstance(values, dict)]
        if drawn and self.trials is None:
            raise ValueError(f"search.{drawn[0]} is drawn at random: set trials, the number of draws")
        if "output_dir" in self.search:
            raise ValueError("search.output_dir: each trial has a directory of its own in output_dir")
        if (self.early_stopping == "asha") != (self.grace_steps is not None):
            raise ValueError("early_stopping=asha and grace_steps go together: set both or neither")
        return self
