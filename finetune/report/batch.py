"""What the gradient noise scale of a run says of its batch; nothing was resized by it."""

from __future__ import annotations

import math

from finetune.batching import NoiseScale, noise_words
from finetune.report.schema import Noise, Report
from finetune.report.wording import count


def batch_rows(report: Report) -> list[list[str]]:
    """The rows of a table, none where no noise scale was measured."""
    size, noise = report.train.effective_batch_size, report.train.noise_scale
    if noise is None or size is None:
        return []
    measured = NoiseScale(noise.value, noise.low, noise.high, noise.updates)
    return [
        ["Effective batch size", count(size)],
        ["Gradient noise scale, rows", _interval(noise)],
        ["Suggests", noise_words(measured, size, report.train.micro_batch_size)],
    ]


def _interval(noise: Noise) -> str:
    ends = f"{noise.low:.3g} to {noise.high:.3g}" if math.isfinite(noise.high) else f"{noise.low:.3g} or more"
    value = f"{noise.value:.3g}" if math.isfinite(noise.value) else "unbounded"
    return f"{value} (95 % interval {ends})"
