"""Training rows that are read while the run trains, in memory that does not grow with their number.

A pass takes the blocks of the files in an order of its own, a window of them at a time; the rows of a window are
converted, encoded, packed and looked at as `load_data` does it, and shuffled. All of it follows from the seed and the
window's number, so that a run goes on within a window by reading that window alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.config import DataSource, RunConfig
from finetune.data.blocks import Blocks
from finetune.data.breaches import leaks
from finetune.data.contract import Breach
from finetune.data.encode import Encoder
from finetune.data.faults import count_of
from finetune.data.formats import Converted, convert
from finetune.data.packs import to_dataset
from finetune.data.seen import Seen
from finetune.data.splits import Split, encode_split
from finetune.errors import ConfigError
from finetune.spec.loss import NUMBER

if TYPE_CHECKING:
    from datasets import Dataset

WINDOW = 2**22
"""Tokens that the rows of a window have at most, each of data.max_length: 2,048 rows of 2,048 tokens. As Python's
numbers they take about 200 MB for a moment, whatever the file."""

PLACE = 2**32
"""A row of the stream has the number of its window, times this, plus its place in the window's data set."""


@dataclass(frozen=True)
class Window:
    """Rows of a window, what breaks the mask contract among them, and the data set that they make."""

    split: Split
    breaches: list[Breach]
    dataset: Dataset


class Stream:
    """The rows (or packs) of `data.train` without an end, pass after pass. `at` is the window that is read and `taken`
    how many of its rows were; both, with what was `seen`, are the `state` from which a run goes on.

    Raises ConfigError for what cannot be streamed, DataError for what cannot be trained on.
    """

    def __init__(self, run: RunConfig, encoder: Encoder) -> None:
        self.config, self.seed, self.encoder = run.data, run.training.seed, encoder
        self.held_out: Split | None = None
        self.blocks = Blocks(_sources(run))
        self._size = max(1, WINDOW // run.data.max_length // self.blocks.size)
        self.windows = -(-len(self.blocks) // self._size)
        self._kept: dict[int, Window] = {}
        self.at = self.taken = 0
        self.seen = Seen()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Rows for a batch, from `at` and `taken` on."""
        while True:
            window = self.window(self.at)
            if self.taken == 0 and self.at < self.windows:
                found = leaks(window.split, self.held_out) if self.held_out else ()
                self.seen.add(window.split.stats, [*window.breaches, *found])
            order = np.random.default_rng([self.seed, 1, self.at]).permutation(len(window.dataset))
            for row in order[self.taken :].tolist():
                self.taken += 1
                yield {**window.dataset[row], NUMBER: self.at * PLACE + row}
            self.at, self.taken = self.at + 1, 0

    @property
    def passes(self) -> float:
        """How often the files were gone through so far."""
        rows = len(self.window(self.at).dataset)
        return (self.at + (self.taken / rows if rows else 0)) / self.windows

    def state(self) -> dict[str, Any]:
        """Where the stream is, for a checkpoint."""
        return {"at": self.at, "taken": self.taken, "seen": self.seen.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`."""
        self.at, self.taken, self.seen = state["at"], state["taken"], Seen.of(state["seen"])

    def places(self, number: int) -> list[str]:
        """Where the row of that number was read: of a pack all that it holds."""
        at, row = divmod(number, PLACE)
        window = self.window(at)
        members = window.dataset[row]["members"] if self.config.packing else [row]
        return [window.split.examples[member].where for member in members]

    def notes_before(self) -> list[str]:
        """What is to be said before the run."""
        return [
            f"train: streamed, {count_of(self.blocks.count, 'row')} in {count_of(self.windows, 'window')}; before the "
            "run the first of them is looked at, and what is said of train is of that one"
        ]

    def notes_after(self) -> list[str]:
        """What is to be said of the rows at the end of the run."""
        stats = self.seen.stats
        read = stats.rows + stats.dropped if stats else 0
        passes = f"; {self.passes:.2f} passes over them in all" if self.passes > 1 else ""
        return [f"train: {read:,} of {self.blocks.count:,} rows were read{passes}", *self.seen.notes()]

    def converted(self, number: int) -> list[Converted]:
        """The rows of a window as examples, in the order of the files."""
        passes, at = divmod(number, self.windows)
        blocks = sorted(_order(self.seed, passes, len(self.blocks))[at * self._size : (at + 1) * self._size].tolist())
        by_source = groupby(blocks, key=self.blocks.source)
        parts = [[row for block in part for row in self.blocks.rows(block)] for _, part in by_source]
        return [one for rows in parts if rows for one in convert(rows, self.config.format)[0]]

    def window(self, number: int) -> Window:
        """A window; that and the last one before it are kept."""
        if number not in self._kept:
            last = dict(list(self._kept.items())[-1:])
            split, breaches = encode_split(self.converted(number), "train", self.encoder, self.config)
            dataset = to_dataset(split.rows, packing=self.config.packing, max_length=self.config.max_length)
            self._kept = {**last, number: Window(split, breaches, dataset)}
        return self._kept[number]


def _sources(run: RunConfig) -> list[DataSource]:
    given = run.data.train
    if not given:
        raise ConfigError("data.train: the list of sources is empty", "name a file")
    return [DataSource(path=given)] if isinstance(given, str) else given


@lru_cache(maxsize=1)
def _order(seed: int, passes: int, blocks: int) -> np.ndarray:
    """The blocks of a pass."""
    return np.random.default_rng([seed, 0, passes]).permutation(blocks)
