"""What a stream of rows has shown so far: counted, with the first places of each kind of breach."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from finetune.data.contract import Breach
from finetune.data.faults import NAMED, of_kind
from finetune.data.splits import SplitStats

SUMS = ("rows", "tokens", "trained_tokens", "truncated", "dropped")


@dataclass
class Seen:
    """Counts of the first pass over the rows, so that none counts twice. `kinds` has, for each kind of breach, the
    number of rows and the first of them with their details; `copied` the held-out rows that are trained on."""

    stats: SplitStats | None = None
    kinds: dict[str, dict[str, Any]] = field(default_factory=dict)
    copied: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, stats: SplitStats, breaches: Iterable[Breach]) -> None:
        """Takes in a window."""
        self.stats = _together(self.stats, stats) if self.stats else stats
        for one in breaches:
            if one.role == "eval":
                self.copied.setdefault(one.fault.what, {}).setdefault(one.where, one.fault.detail)
                continue
            what = one.fault.what + ("" if one.row and one.row.trained else ", left out")
            kind = self.kinds.setdefault(what, {"rows": 0, "first": {}})
            kind["rows"] += 1
            if len(kind["first"]) <= NAMED:
                kind["first"][one.where] = one.fault.detail

    def notes(self) -> list[str]:
        """A line for each kind of breach."""
        found = [f"train: {of_kind(what, kind['rows'], kind['first'])}" for what, kind in self.kinds.items()]
        return [*found, *(f"eval: {of_kind(what, len(places), places)}" for what, places in self.copied.items())]

    def state(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return asdict(self)

    @classmethod
    def of(cls, state: dict[str, Any]) -> Seen:
        """What `state` was made of."""
        stats = state["stats"]
        return cls(stats and SplitStats(**stats), state["kinds"], state["copied"])


def _together(one: SplitStats, other: SplitStats) -> SplitStats:
    formats = dict.fromkeys(name for stats in (one, other) for name in stats.format.split(", ") if name)
    sums = {name: getattr(one, name) + getattr(other, name) for name in SUMS}
    return SplitStats(one.source, ", ".join(formats), longest=max(one.longest, other.longest), **sums)
