"""The whole plan of a run before it starts: memory, updates, learning rate, operations, tokens, time, and doubts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from finetune.batching import Doubt, Updates
from finetune.plan.attention import AttentionShare
from finetune.preflight import Verdict


@dataclass(frozen=True)
class Tokens:
    """Tokens that a run sees: those of the data where it was read (`exact`), else as many as its batches have room
    for. `per_epoch` and `total` are None where the number of examples, or of updates, is unknown."""

    exact: bool
    per_update: int
    per_epoch: int | None
    total: int | None


@dataclass(frozen=True)
class Plan:
    """A verdict with what follows from the number of examples."""

    verdict: Verdict
    tokens: Tokens
    attention: AttentionShare
    doubts: list[Doubt] = field(default_factory=list)

    @property
    def updates(self) -> Updates | None:
        """Updates of the run; None where the number of examples is unknown."""
        return self.verdict.updates

    @property
    def flops(self) -> int | None:
        """Floating-point operations of the whole run."""
        return self.verdict.flops_per_update * self.updates.total if self.updates else None

    def to_json(self) -> dict[str, Any]:
        """The object that `finetune plan --json` prints: that of `preflight --json`, and more."""
        seen = self.verdict.to_json()
        spec, updates, tokens, attention = self.verdict.spec, self.updates, self.tokens, self.attention
        return seen | {
            "batch": seen["batch"] | {
                "effective_batch_size": spec.config.training.effective_batch_size,
                "examples": updates and updates.examples,
                "steps_per_epoch": updates and updates.per_epoch,
                "last_batch_size": updates and updates.last,
                "total_steps": updates and updates.total,
                "epochs": updates and updates.epochs,
                "warmup_steps": updates and updates.warmup,
                "learning_rate": spec.learning_rate,
            },
            "compute": seen["compute"] | {"flops_per_step": self.verdict.flops_per_update, "flops": self.flops},
            "tokens": {
                "exact": tokens.exact, "per_step": tokens.per_update, "per_epoch": tokens.per_epoch,
                "total": tokens.total,
            },
            "attention": {
                "kernel": attention.kernel, "share": attention.now.share, "saved_by_least": attention.saved,
                "half_from_tokens": attention.half_from,
            },
            "doubts": [{"why": doubt.why, "change": doubt.change} for doubt in self.doubts],
        }  # fmt: skip
