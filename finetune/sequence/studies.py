"""What is asked of measurements: how time and memory grow, where one layer overtakes another, what waiting costs.

`finetune lab sequence` runs them short, benchmarks/sequence_costs.py long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from finetune.sequence import recall
from finetune.sequence.measure import (
    ATTENTION,
    KINDS,
    RECURRENT,
    crossing,
    exponent,
    layer,
    peak_bytes,
    projections,
    seconds,
)

PASSES = {"forward": False, "forward and backward": True}


def growth(
    sizes: Sequence[int], said: Callable[[str], None] = lambda _: None, *, repeats: int = 3
) -> dict[str, Any]:  # fmt: skip
    """Seconds and bytes of each of KINDS at each size, with and without a backward pass, and their exponents."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        found[kind] = {name: _grown(kind, sizes, backward, repeats) for name, backward in PASSES.items()}
        said(f"{kind}: time grows as {[round(one['time']['value'], 2) for one in found[kind].values()]}")
    return found


def _grown(kind: str, sizes: Sequence[int], backward: bool, repeats: int) -> dict[str, Any]:
    times = [seconds(layer(kind, tokens)[0], backward=backward, repeats=repeats) for tokens in sizes]
    sizes_of = [peak_bytes(*layer(kind, tokens), backward=backward) for tokens in sizes]
    return {
        "seconds": times,
        "bytes": sizes_of,
        "time": asdict(exponent(sizes, times)),
        "memory": asdict(exponent(sizes, sizes_of)),
    }


def overtaking(sizes: Sequence[int], width: int) -> dict[str, Any]:
    """Seconds of one training pass at each size, by part: attention's projections, its mixing, recurrent layers. Then
    the tokens from which mixing takes longer than the projections, and a whole attention layer than each recurrence;
    None where it does not within the sizes."""
    times = {"projections": [seconds(projections(n, width)[0], backward=True) for n in sizes]}
    for kind in KINDS:
        times[kind] = [seconds(layer(kind, n, width=width)[0], backward=True) for n in sizes]
    from_tokens: dict[str, float | None] = {}
    for kind in ATTENTION:
        whole = [sum(pair) for pair in zip(times["projections"], times[kind], strict=True)]
        from_tokens[f"{kind}: mixing over projections"] = crossing(sizes, times[kind], times["projections"])
        for other in RECURRENT:
            from_tokens[f"{kind} over {other}"] = crossing(sizes, whole, times[other])
    return {"width": width, "seconds": times, "from_tokens": from_tokens}


def waiting(tokens: int, length: int) -> dict[str, dict[str, float]]:
    """Seconds a token of one sequence of `tokens`, and of as many tokens in sequences of `length`, trained."""
    found = {}
    for kind in KINDS:
        one = seconds(layer(kind, tokens)[0], backward=True) / tokens
        many = seconds(layer(kind, length, rows=tokens // length)[0], backward=True) / tokens
        found[kind] = {"one": one, "many": many, "ratio": one / many}
    return found


def recalled(
    gaps: Sequence[int], updates: int, seeds: Sequence[int], said: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Accuracy by model, gap and seed, and each model's parameters."""
    found: dict[str, Any] = {}
    for name in recall.RATES:
        runs = [[recall.recall(name, gap, updates, seed) for seed in seeds] for gap in gaps]
        found[name] = {
            "parameters": runs[0][0].parameters,
            "accuracy": {str(gap): [run.accuracy for run in of_gap] for gap, of_gap in zip(gaps, runs, strict=True)},
        }
        said(f"{name}: {found[name]['accuracy']}")
    return found
