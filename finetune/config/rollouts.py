"""The section `rollout:` and the list `rewards:`, for methods that learn from the model's own completions."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import regex
from pydantic import Field, field_validator, model_validator

from finetune.config.sections import Positive, Section, Size


class RolloutConfig(Section):
    """How completions are sampled that a reward then judges (rloo, grpo)."""

    num_generations: Annotated[int, Field(ge=2, le=2**20)] = 8
    """Completions of each prompt: a group, whose rewards are each other's baseline."""
    max_completion_length: Size = 256
    """Longest completion in tokens; longer ones are cut and have no stop token."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Logits are divided by this before sampling; 1 samples from the policy itself."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Samples among the likeliest tokens that have this probability together; 1 takes all."""
    trial_prompts: Annotated[int, Field(ge=0)] = 8
    """Prompts whose completions are scored before the run, so that rewards that teach nothing are refused; 0: none."""
    eval_prompts: Positive = 64
    """Held-out prompts answered in each evaluation: the first of the held-out rows."""


class RewardConfig(Section):
    """One reward of a completion: a number for each, and its share of the sum."""

    type: Literal["exact", "regex", "format", "length", "python"]
    """exact compares with the row's answer, regex searches, format looks at the shape, length counts, python asks."""
    weight: float = 1.0
    """What the reward is multiplied by before rewards are added; a negative one punishes."""
    column: str | None = None
    """exact: column of the row that holds the right answer; null takes the row's own answer."""
    extract: str | None = None
    """exact: regular expression; the first group of its last match is compared, in the completion and in the right
    answer, of which all is compared where it does not match; null compares all of both."""
    pattern: str | None = None
    """regex: regular expression that the completion has to hold somewhere."""
    shape: Literal["json", "tags"] | None = None
    """format: json is one JSON object or array, tags are the sections of `tags` in their order and nothing else."""
    tags: list[str] = Field(default_factory=list)
    """format: names of the sections, such as [think, answer] for <think>…</think><answer>…</answer>."""
    min: Annotated[int, Field(ge=0)] = 0
    """length: fewest units that get the whole reward; below, it falls in a line to none at zero."""
    max: Positive | None = None
    """length: most units that get the whole reward; beyond, it falls in a line to none at twice as many."""
    unit: Literal["characters", "words", "tokens"] = "words"
    """length: what is counted."""
    function: str | None = None
    """python: dotted path of a function that returns a number, in a process of its own; called by name with those of
    prompt, completion, answer and the row's columns that it takes."""
    timeout: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """python: seconds after which one call is given up."""

    @field_validator("pattern", "extract")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            regex.compile(pattern or "")
        except regex.error as error:
            raise ValueError(f"{pattern!r} is no regular expression ({error})") from None
        return pattern

    @field_validator("tags")
    @classmethod
    def _names_sections(cls, tags: list[str]) -> list[str]:
        for tag in tags:
            if not re.fullmatch(r"[\w.:-]+", tag):
                raise ValueError(f"{tag!r} is no name of a section: write think for <think>…</think>")
            if tags.count(tag) > 1:
                raise ValueError(f"{tag!r} stands twice: a section comes once")
        return tags

    @field_validator("function")
    @classmethod
    def _is_dotted_path(cls, function: str | None) -> str | None:
        if function is not None and not ("." in function and all(part.isidentifier() for part in function.split("."))):
            raise ValueError(f"{function!r} is no dotted path: write rewards.score for function score of rewards.py")
        return function

    @model_validator(mode="after")
    def _has_what_its_type_needs(self) -> RewardConfig:
        needed = {"regex": "pattern", "format": "shape", "python": "function"}.get(self.type)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"a reward of type {self.type} needs {needed}")
        if self.shape == "tags" and not self.tags:
            raise ValueError("a reward of shape tags needs tags, such as [think, answer]")
        if self.shape == "json" and self.tags:
            raise ValueError("tags are for shape tags; this is json")
        if self.extract is not None and regex.compile(self.extract).groups == 0:
            raise ValueError(f"extract={self.extract!r} has no group to compare: put it in brackets")
        if self.type == "length" and self.max is None and self.min == 0:
            raise ValueError("a reward of type length needs min or max")
        if self.max is not None and self.max < self.min:
            raise ValueError(f"min={self.min} is above max={self.max}")
        self._has_nothing_else()
        return self

    def _has_nothing_else(self) -> None:
        own = {"exact": {"column", "extract"}, "regex": {"pattern"}, "format": {"shape", "tags"},
               "length": {"min", "max", "unit"}, "python": {"function", "timeout"}}[self.type]  # fmt: skip
        odd = sorted(self.model_fields_set - own - {"type", "weight"} - self._defaults())
        if odd:
            raise ValueError(f"a reward of type {self.type} takes no {', '.join(odd)}")

    def _defaults(self) -> set[str]:
        """Keys written out with the value they have anyway, as in a resolved configuration."""
        fields = type(self).model_fields
        defaults = {name: fields[name].get_default(call_default_factory=True) for name in self.model_fields_set}
        return {name for name, default in defaults.items() if getattr(self, name) == default}
