"""Vectors read in blocks, and seeded samples of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 4096
"""Vectors in memory at a time, as float32."""

SAMPLE = 20_000
"""Vectors that neighbours are sought among and clusters are learned from: by this many, cost grows with N, not N²."""


class Chosen:
    """Some of the vectors, taken from where they lie as they are read: what a copy of them would hold in memory stays
    on disk. Can stand wherever functions of this room take (N, D)."""

    def __init__(self, vectors_ND: np.ndarray | Chosen, rows: np.ndarray) -> None:
        self._vectors, self._rows = vectors_ND, rows
        self.shape = (len(rows), vectors_ND.shape[1])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        return self._vectors[self._rows[index]]


Vectors = np.ndarray | Chosen
"""N vectors of D dimensions."""


def blocks_of(vectors_ND: Vectors) -> Iterator[tuple[int, np.ndarray]]:
    """Where each block starts, and its vectors as float32."""
    for start in range(0, len(vectors_ND), BLOCK):
        yield start, np.asarray(vectors_ND[start : start + BLOCK], np.float32)


def sample(count: int, size: int, seed: int) -> np.ndarray:
    """`size` different numbers below `count`, or all of them, in order; equal seeds give equal samples."""
    if size >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, size, replace=False))
