"""A base that is too large for one card, shared out among several."""

from __future__ import annotations

import itertools

from finetune.config import RunConfig
from finetune.preflight.changes import Changes, Prices, changed, words
from finetune.spec import RunSpec

SHARDS = (2, 4, 8)
"""Numbers of cards that are tried."""


def shared_out(spec: RunSpec, allowed: int) -> str:
    """How many cards with so many bytes for the process do what one does not, with a smaller micro batch where that
    helps, to be said after other advice; nothing where none of these numbers do."""
    if spec.device.kind != "cuda" or spec.config.hardware.shards > 1:
        return ""
    prices, rows = Prices(spec), spec.config.training.micro_batch_size
    for shards, fewer in itertools.product(SHARDS, dict.fromkeys((rows, 1))):
        changes: Changes = {"hardware.shards": shards, **({"training.micro_batch_size": fewer} if fewer < rows else {})}
        try:
            RunConfig.model_validate(changed(spec.config, changes).model_dump())
        except ValueError:  # a base of this kind is not shared out
            return ""
        if (process := prices(changes).process) <= allowed:
            return f", or {shards} of these: `{words(spec.config, changes)}` takes {process / 2**30:.1f} GiB on each"
    return ""
