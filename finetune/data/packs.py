"""Rows become packs: sequences of one length that hold several rows, as full as they get.

Best-fit decreasing leaves a gap wherever no single row fits it. Here each pack is the longest row left and those others
whose lengths add up best to the rest: a subset sum over the bits of an integer (minimum bin slack, Gupta and Ho 1999).
Where two rows nearly fill a pack, an exact fit wastes small rows that later gaps need: tolerances are tried, and
the one with the fewest packs is kept. Deterministic; a stream of lengths is packed window by window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from finetune.spec.loss import NUMBER

if TYPE_CHECKING:
    from datasets import Dataset

    from finetune.data.encode import Encoded

WINDOW = 65_536
"""Rows that are looked at together: memory stays flat, and there are sums enough to choose from."""

TOLERANCES = (0.0, 0.05, 0.1, 0.15)
"""Shares of a pack that may stay empty where its larger rows come that near. Measured: 0 gives the fewest packs that
there can be wherever a pack holds three rows or more; 0.15 where it holds two."""

GOOD_ENOUGH = 0.995
"""Least share of the fewest packs thinkable at which no further tolerance is tried."""

KEPT_BACK = 1 / 8
"""Share of a window's packs, the emptiest, whose rows wait for those of the next window."""

Row = tuple[int, int]  # number, length


def to_dataset(rows: Sequence[Encoded], *, packing: bool, max_length: int) -> Dataset:
    """A data set of `input_ids` and `labels` (32 bits a token); packed, each row of it also has the `seq_lengths` of
    what it holds, and their numbers among `rows` as `members`. `number` counts the rows of the data set."""
    from datasets import Dataset

    lengths = [len(row.input_ids) for row in rows]
    packs = list(fill_packs(lengths, max_length)) if packing else [[row] for row in range(len(rows))]
    totals = [sum(lengths[row] for row in pack) for pack in packs]
    columns = {
        name: _lists((token for pack in packs for row in pack for token in getattr(rows[row], name)), totals)
        for name in ("input_ids", "labels")
    }
    if packing:
        held = (lengths[row] for pack in packs for row in pack)
        columns["seq_lengths"] = _lists(held, [len(pack) for pack in packs])
        columns["members"] = _lists((row for pack in packs for row in pack), [len(pack) for pack in packs])
    columns[NUMBER] = list(range(len(packs)))
    return Dataset.from_dict(columns)


def fill_packs(lengths: Iterable[int], capacity: int, window: int = WINDOW) -> Iterator[list[int]]:
    """Packs as lists of row numbers, none longer than `capacity`; each row is in one.

    Lengths are above 0 and at most `capacity`; they are read as they come, about `window` of them at a time.
    """
    rows = enumerate(lengths)
    waiting: list[Row] = []
    while come := list(islice(rows, max(window - len(waiting), window // 2))):
        packs = sorted(_fewest([*waiting, *come], capacity), key=_filled, reverse=True)
        done = len(packs) - int(KEPT_BACK * len(packs)) if len(come) + len(waiting) >= window else 0
        yield from ([row for row, _ in pack] for pack in packs[:done])
        waiting = [row for pack in packs[done:] for row in pack]
    yield from ([row for row, _ in pack] for pack in _fewest(waiting, capacity))


def _lists(values: Iterable[int], lengths: list[int]) -> pa.ListArray:
    """The values in lists of these lengths."""
    ends = np.fromiter(accumulate(lengths, initial=0), np.int32, len(lengths) + 1)
    return pa.ListArray.from_arrays(ends, np.fromiter(values, np.int32, sum(lengths)))


def _filled(pack: list[Row]) -> int:
    return sum(length for _, length in pack)


def _fewest(rows: list[Row], capacity: int) -> list[list[Row]]:
    """The packs of the tolerance that needs the fewest."""
    thinkable = -(-_filled(rows) // capacity)
    best: list[list[Row]] = []
    for tolerance in TOLERANCES:
        packs = list(_packs(rows, capacity, int(tolerance * capacity)))
        best = packs if not best or len(packs) < len(best) else best
        if GOOD_ENOUGH * len(best) <= thinkable:
            break
    return best


def _packs(rows: list[Row], capacity: int, tolerance: int) -> Iterator[list[Row]]:
    """Packs, those of the longest rows first."""
    left: dict[int, deque[int]] = {}
    for row, length in rows:
        left.setdefault(length, deque()).append(row)
    descending = sorted(left, reverse=True)
    while descending:
        longest = descending[0]
        pack = [longest, *_best_sum(descending, left, capacity - longest, tolerance)]
        yield [(left[length].popleft(), length) for length in pack]
        if not all(left[length] for length in pack):
            descending = [length for length in descending if left[length]]


def _best_sum(descending: list[int], left: dict[int, deque[int]], room: int, tolerance: int) -> list[int]:
    """Lengths that add up to the most within `room`, the first found within `tolerance` of it. Of the longest length,
    `descending[0]`, one row is taken already."""
    reached, within = 1, (1 << room + 1) - 1  # bit n is set where some of the lengths add up to n
    enough = max(room - tolerance, 0)
    steps: list[tuple[int, int]] = []
    for length in descending:
        if reached >> enough:
            break
        for _ in range(min(len(left[length]) - (length == descending[0]), room // length)):
            further = (reached | reached << length) & within
            if further == reached:
                break
            steps.append((length, reached))
            reached = further
    total, chosen = reached.bit_length() - 1, []
    for length, before in reversed(steps):
        if not before >> total & 1:
            chosen.append(length)
            total -= length
    return chosen
