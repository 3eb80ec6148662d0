"""Packs: every row once, none too long, as few as can be; the same again, and with little held at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data import Encoded, to_dataset
from finetune.data.packs import fill_packs


def filled(lengths: list[int], packs: list[list[int]], capacity: int) -> float:
    """Share of the packs that is tokens, once it is sure that they are packs."""
    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in pack) <= capacity for pack in packs)
    return sum(lengths) / (len(packs) * capacity)


@given(st.lists(st.integers(1, 40), max_size=200), st.integers(1, 60))
def test_every_row_is_in_one_pack_and_no_pack_is_too_long(lengths: list[int], window: int) -> None:
    packs = list(fill_packs(lengths, 40, window))
    share = filled(lengths, packs, 40) if packs else 1
    assert share > 0.5 or len(packs) == 1 or window < len(lengths)  # of what was seen at once, no two could be one
    assert packs == list(fill_packs(iter(lengths), 40, window))


@pytest.mark.parametrize(
    ("lengths", "fewest"),
    [
        ([], 0),
        ([10], 1),
        ([6, 5, 5, 4], 2),
        # Best-fit decreasing puts 6 with 3 and needs three packs.
        ([6, 3, 3, 2, 2, 2, 2], 2),
        # An exact fit of 5 + 3 + 2 would leave the other 5 and 4 alone: pairs need no more packs.
        ([7, 6, 4, 3], 2),
    ],
)
def test_as_few_as_can_be(lengths: list[int], fewest: int) -> None:
    assert len(list(fill_packs(lengths, 10))) == fewest


@pytest.mark.parametrize(("capacity", "least"), [(512, 0.99), (1024, 0.999), (2048, 0.999), (4096, 0.999)])
def test_lengths_as_data_sets_have_them(capacity: int, least: float) -> None:
    drawn = np.random.default_rng(0).lognormal(5.2, 0.8, 10_000).astype(int) + 10
    lengths = np.minimum(drawn, capacity).tolist()
    assert filled(lengths, list(fill_packs(lengths, capacity)), capacity) >= least
    assert filled(lengths, list(fill_packs(lengths, capacity, window=1000)), capacity) >= least - 0.005


@pytest.mark.parametrize(
    "name", ["gsm8k/train.jsonl", "mlx_wikisql_lora/train.jsonl", "chat_samples/v1_sft_demo.jsonl"]
)
@pytest.mark.parametrize("capacity", [512, 1024, 2048])
def test_real_length_distributions(name: str, capacity: int, shared: Path) -> None:
    """Lengths in characters over 4, near those in tokens. The last pack of a small data set cannot be full."""
    lines = (shared / "data" / name).read_text(encoding="utf-8").splitlines()
    lengths = [min(len(json.dumps(json.loads(line))) // 4, capacity) for line in lines]
    thinkable = sum(lengths) / (math.ceil(sum(lengths) / capacity) * capacity)
    assert filled(lengths, list(fill_packs(lengths, capacity)), capacity) >= 0.98 * thinkable


def test_rows_in_pairs_are_packed_in_pairs() -> None:
    """Where two rows nearly fill a pack, an exact fit of three would take the small ones that later packs need."""
    drawn = np.random.default_rng(0).normal(217, 80, 5000).astype(int).clip(60, 512).tolist()
    assert filled(drawn, list(fill_packs(drawn, 512)), 512) >= 0.98


def test_a_stream_is_read_as_packs_are_taken() -> None:
    read = 0

    def lengths() -> Iterator[int]:
        nonlocal read
        for length in np.random.default_rng(0).integers(1, 60, 20_000).tolist():
            read += 1
            yield length

    packs = fill_packs(lengths(), 100, window=500)
    next(packs)
    assert read == 500
    assert len(list(packs)) == pytest.approx(20_000 * 30 / 100, rel=0.02)


def test_a_data_set_holds_the_rows_of_its_packs() -> None:
    rows = [
        Encoded([number] * length, [-100] + [number] * (length - 1), length) for number, length in enumerate([6, 4, 5])
    ]
    dataset = to_dataset(rows, packing=True, max_length=10)
    assert dataset["seq_lengths"][:] == [[6, 4], [5]]
    assert dataset[0] == {
        "input_ids": [0] * 6 + [1] * 4,
        "labels": [-100, 0, 0, 0, 0, 0, -100, 1, 1, 1],
        "seq_lengths": [6, 4],
        "members": [0, 1],
        "number": 0,
    }
    alone = to_dataset(rows, packing=False, max_length=10)
    assert alone["input_ids"][:] == [row.input_ids for row in rows]
    assert alone.column_names == ["input_ids", "labels", "number"]
