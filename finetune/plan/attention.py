"""What attention is of a run's operations, and what another kernel would save of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune.batching import Doubt
from finetune.preflight import Batch, Verdict, priced
from finetune.sequence import pairs
from finetune.sequence.decoder import RowCost, half_from, row_cost
from finetune.spec import RunSpec

SAVES = 0.05
"""Share of a forward pass from which a saving is worth a line."""
AMPERE = (8, 0)
"""Compute capability that FlashAttention-2 needs."""
FLASH = "flash_attention_2"
GIB = 2**30


@dataclass(frozen=True)
class AttentionShare:
    """A mean row's forward pass with the kernel of the run, `now`, and with only the pairs that matter, `least`.

    `half_from`: tokens from which scores and values are half of a forward pass that computes no more than these pairs;
    None where windows keep them below.
    """

    kernel: str
    tokens: int
    now: RowCost
    least: RowCost
    half_from: int | None

    @property
    def dominates(self) -> bool:
        """Whether scores and values are more than half of what is computed."""
        return self.now.share > 0.5

    @property
    def saved(self) -> float:
        """What part of a forward pass would be left out with the pairs that matter alone."""
        return 1 - self.least.flops / self.now.flops


def attention_share(verdict: Verdict, lengths: Sequence[int] | None = None) -> AttentionShare:
    """Of a row of the batch that was priced; a pack is full of rows of `lengths` where they are known."""
    spec, batch = verdict.spec, verdict.batch
    config, kernel, tokens = spec.model_config, spec.attention, batch.tokens
    rows = list(lengths) if batch.packed and lengths else [tokens]
    filled = tokens / sum(rows)  # how many such lists of rows a pack holds

    def needed(window: int | None) -> int:
        return round(filled * sum(pairs(row, causal=True, window=window) for row in rows))

    def computed(window: int | None) -> int:
        masked = batch.packed or batch.padded or (window or tokens) < tokens
        return pairs(tokens, causal=kernel == "sdpa" and not masked)

    least = row_cost(config, tokens, needed)
    now = least if kernel == FLASH else row_cost(config, tokens, computed)
    return AttentionShare(kernel, tokens, now, least, half_from(config))


def attention_doubts(verdict: Verdict, share: AttentionShare) -> list[Doubt]:
    """A kernel that would save operations or memory, and what else there is to do where attention dominates."""
    spec, found = verdict.spec, []
    if share.kernel == "eager" and spec.config.model.attention == "eager":
        found.append(_written_out(verdict, share))
    elif share.kernel == "sdpa" and share.saved >= SAVES and _has_flash(spec):
        found.append(_masked(verdict.batch, share))
    if share.dominates:
        found.append(_dominates(share))
    return found


def _written_out(verdict: Verdict, share: AttentionShare) -> Doubt:
    process = priced(verdict.spec, {"model.attention": "sdpa"})
    saved = verdict.prediction.process - process
    return Doubt(
        f"eager attention writes every score down, masked or not: sdpa takes {process / GIB:.2f} GiB, "
        f"{saved / GIB:.2f} GiB less, and computes half of the scores ({share.saved:.1%} of a forward pass)",
        "model.attention=sdpa",
    )


def _masked(batch: Batch, share: AttentionShare) -> Doubt:
    why = "padding is masked" if batch.padded else "windows are a mask"
    why = "rows of a pack are kept apart by a mask" if batch.packed else why
    return Doubt(
        f"{why}, and sdpa computes what is masked: {share.now.mixing / share.least.mixing:.1f} times the scores that "
        f"matter; FlashAttention-2, by variable length, leaves out {share.saved:.1%} of a forward pass",
        f"model.attention={FLASH}",
    )


def _dominates(share: AttentionShare) -> Doubt:
    return Doubt(
        f"scores and values are {share.now.share:.0%} of a forward pass, and grow with the square of the length: half "
        "as many tokens a row halve what each token costs; a model with a sliding window does not pay for it"
    )


def _has_flash(spec: RunSpec) -> bool:
    return spec.device.kind == "cuda" and (spec.device.capability is None or spec.device.capability >= AMPERE)
