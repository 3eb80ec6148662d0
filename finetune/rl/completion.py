"""What a reward judges, and the one way to be judged: completion by completion, a number or a fault in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Completion:
    """What the model wrote on a prompt, and the row that asked.

    `prompt` is the last user turn or the plain prompt, `text` has no special tokens, `tokens` is its length, `where`
    names the row in messages (`rows.jsonl line 3`), `answer` is the row's own, `columns` are the others of the row.
    """

    prompt: str
    text: str
    tokens: int
    where: str
    answer: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


class Unscorable(Exception):
    """A rule has no score for this completion; the text says why, after the completion's `where`."""


class Rule:
    """A reward before its weight. `hint` says what to do where it cannot score."""

    hint = ""

    def __call__(self, completion: Completion) -> float:
        """The reward of one completion. Raises Unscorable."""
        raise NotImplementedError

    def close(self) -> None:
        """Lets go of what it holds."""


@dataclass
class Scorer:
    """A rule with its name, unique in a run, and its weight in the sum.

    `faults` says of the latest call which completions could not be scored, and why.
    """

    name: str
    weight: float
    rule: Rule
    faults: list[str] = field(default_factory=list)

    def score(self, completions: Sequence[Completion]) -> list[float | None]:
        """The reward of each completion, None where it could not be scored."""
        self.faults = []
        return [self._one(completion) for completion in completions]

    def _one(self, completion: Completion) -> float | None:
        try:
            return self.rule(completion)
        except Unscorable as fault:
            self.faults.append(f"{completion.where}: {fault}")
            return None

    def close(self) -> None:
        """Lets go of what the rule holds."""
        self.rule.close()
