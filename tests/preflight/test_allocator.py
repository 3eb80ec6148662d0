"""The caching allocator, rule by rule, in cases worked by hand. Blocks are written (size, allocated)."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest

from finetune.preflight.allocator import CachingAllocator, OutOfMemory

MIB = 2**20


def filled(*sizes: int, limit: int | None = None, expandable_segments: bool = False) -> CachingAllocator:
    """An allocator that holds blocks of these sizes under keys 0, 1, ..."""
    allocator = CachingAllocator(limit=limit, expandable_segments=expandable_segments)
    for key, size in enumerate(sizes):
        allocator.malloc(key, size)
    return allocator


def freed(allocator: CachingAllocator, *keys: int) -> CachingAllocator:
    for key in keys:
        allocator.free(key)
    return allocator


def in_mib(allocator: CachingAllocator) -> list[list[tuple[float, bool]]]:
    return [[(size / MIB, used) for size, used in segment] for segment in allocator.snapshot()]


@pytest.mark.parametrize(("asked", "taken"), [(0, 0), (1, 512), (512, 512), (513, 1024), (100_000, 100_352)])
def test_sizes_are_rounded_to_512(asked: int, taken: int) -> None:
    assert filled(asked).allocated == taken


@pytest.mark.parametrize("expandable", [False, True])
def test_no_bytes_take_nothing(expandable: bool) -> None:
    allocator = freed(filled(0, expandable_segments=expandable), 0)
    assert (allocator.allocated, allocator.reserved, allocator.snapshot()) == (0, 0, [])


@pytest.mark.parametrize(
    ("asked", "allocated", "reserved"),
    [
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB - 511, 10 * MIB, 10 * MIB),  # rounded to 512 first, it is 10 MiB
        (10 * MIB, 10 * MIB, 10 * MIB),
        (10 * MIB + 1, 10 * MIB + 512, 12 * MIB),
        (11 * MIB - 512, 11 * MIB - 512, 12 * MIB),  # the rest, 1 MiB and 512 bytes, is split off
        (11 * MIB, 12 * MIB, 12 * MIB),  # the rest is no more than 1 MiB: the block counts whole
        (99 * MIB, 100 * MIB, 100 * MIB),
    ],
)
def test_a_first_request_sizes_its_segment(asked: int, allocated: int, reserved: int) -> None:
    allocator = filled(asked)
    assert (allocator.allocated, allocator.reserved) == (allocated, reserved)


def test_small_blocks_are_split_down_to_512_bytes() -> None:
    allocator = filled(MIB, MIB - 512)
    assert allocator.snapshot() == [[(MIB, True), (MIB - 512, True), (512, False)]]
    allocator.malloc(2, 1)
    assert allocator.snapshot() == [[(MIB, True), (MIB - 512, True), (512, True)]]
    assert allocator.reserved == 2 * MIB


def test_requests_below_ten_mib_share_a_segment() -> None:
    assert in_mib(filled(9 * MIB, 9 * MIB)) == [[(9, True), (9, True), (2, False)]]


def test_a_rest_of_one_mib_is_not_split_off() -> None:
    allocator = filled(9 * MIB, 10 * MIB)  # a cached block is looked for before a segment is made
    assert in_mib(allocator) == [[(9, True), (11, True)]]
    assert allocator.allocated == 20 * MIB


def test_small_requests_leave_large_blocks_alone() -> None:
    allocator = freed(filled(12 * MIB), 0)
    allocator.malloc(1, 512)
    assert allocator.reserved == 14 * MIB
    assert allocator.snapshot() == [[(12 * MIB, False)], [(512, True), (2 * MIB - 512, False)]]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)])
def test_free_neighbours_merge(order: tuple[int, ...]) -> None:
    allocator = filled(6 * MIB, 6 * MIB, 6 * MIB)
    assert in_mib(allocator) == [[(6, True), (6, True), (6, True), (2, False)]]
    assert in_mib(freed(allocator, *order)) == [[(20, False)]]


def test_a_hole_does_not_merge_over_a_live_block() -> None:
    allocator = freed(filled(6 * MIB, 6 * MIB, 6 * MIB), 0, 2)
    assert in_mib(allocator) == [[(6, False), (6, True), (8, False)]]
    assert (allocator.allocated, allocator.reserved) == (6 * MIB, 20 * MIB)


def test_the_best_fit_is_reused_not_the_first() -> None:
    allocator = freed(filled(30 * MIB, 12 * MIB), 0, 1)
    allocator.malloc(2, 12 * MIB)
    assert in_mib(allocator) == [[(30, False)], [(12, True)]]


def test_of_equal_blocks_the_lowest_address_is_reused() -> None:
    allocator = freed(filled(12 * MIB, 12 * MIB, 12 * MIB), 2, 1, 0)
    allocator.malloc(3, 12 * MIB)
    assert in_mib(allocator) == [[(12, True)], [(12, False)], [(12, False)]]


def test_peaks_stay() -> None:
    allocator = freed(filled(30 * MIB, 12 * MIB), 0, 1)
    allocator.empty_cache()
    allocator.malloc(2, 14 * MIB)
    assert (allocator.allocated, allocator.reserved) == (14 * MIB, 14 * MIB)
    assert (allocator.peak_allocated, allocator.peak_reserved) == (42 * MIB, 42 * MIB)


def test_empty_cache_returns_whole_segments_only() -> None:
    allocator = freed(filled(6 * MIB, 6 * MIB, 12 * MIB, 512), 1, 2, 3)
    allocator.empty_cache()
    assert in_mib(allocator) == [[(6, True), (14, False)]]
    assert (allocator.reserved, allocator.retries) == (20 * MIB, 0)


def test_at_the_limit_cached_segments_are_released() -> None:
    allocator = freed(filled(30 * MIB, 512, limit=42 * MIB), 0)
    allocator.malloc(2, 40 * MIB)
    assert (allocator.retries, allocator.reserved, allocator.peak_reserved) == (1, 42 * MIB, 42 * MIB)


def test_a_split_segment_cannot_be_released() -> None:
    allocator = freed(filled(6 * MIB, 20 * MIB, limit=40 * MIB), 1)
    with pytest.raises(OutOfMemory) as error:
        allocator.malloc(2, 21 * MIB)
    assert str(error.value) == (
        "22020096 bytes asked; 20971520 bytes are reserved, 6291456 of them allocated; the limit is 41943040"
    )
    assert allocator.retries == 1
    allocator.malloc(2, 20 * MIB)  # the failed request left no trace
    assert (allocator.allocated, allocator.reserved) == (26 * MIB, 40 * MIB)


def test_keys_are_used_once() -> None:
    allocator = filled(512)
    with pytest.raises(ValueError, match="0 is allocated already"):
        allocator.malloc(0, 512)
    with pytest.raises(KeyError):
        freed(allocator, 0, 0)


def test_expandable_segments_grow_by_pages_of_their_pool() -> None:
    allocator = filled(512, 2 * MIB, 30 * MIB, expandable_segments=True)
    assert in_mib(allocator)[0] == [(2, True), (30, True), (8, False)]
    assert allocator.snapshot()[1] == [(512, True), (2 * MIB - 512, False)]
    allocator.malloc(3, MIB)
    allocator.malloc(4, MIB)  # the free end of 1 MiB less 512 bytes is used, one page more is mapped
    assert allocator.snapshot()[1] == [(512, True), (MIB, True), (MIB, True), (2 * MIB - 512, False)]
    assert allocator.reserved == 44 * MIB


def test_expandable_large_blocks_are_split_down_to_512_bytes() -> None:
    allocator = filled(20 * MIB - 512, expandable_segments=True)
    assert allocator.snapshot() == [[(20 * MIB - 512, True), (512, False)]]


def test_expandable_segments_do_not_fragment_where_plain_ones_do() -> None:
    reserved = {}
    for expandable in (False, True):
        allocator = CachingAllocator(expandable_segments=expandable)
        for size in (12, 24, 48):  # a batch that grows from step to step
            allocator.malloc(0, size * MIB)
            allocator.free(0)
        reserved[expandable] = allocator.reserved
    assert reserved == {False: 84 * MIB, True: 60 * MIB}


def test_the_end_of_an_expandable_segment_is_taken_last() -> None:
    allocator = freed(filled(8 * MIB, 7 * MIB, expandable_segments=True), 0)
    assert in_mib(allocator) == [[(8, False), (7, True), (5, False)]]
    allocator.malloc(2, 4 * MIB)  # 5 MiB would fit better, but could still grow
    assert in_mib(allocator) == [[(4, True), (4, False), (7, True), (5, False)]]


def test_empty_cache_unmaps_whole_pages() -> None:
    allocator = freed(filled(5 * MIB, 45 * MIB, 2 * MIB, expandable_segments=True), 1)
    allocator.empty_cache()
    assert in_mib(allocator) == [[(5, True), (15, False)], [(10, False), (2, True), (8, False)]]
    assert allocator.reserved == 40 * MIB
    freed(allocator, 0, 2).empty_cache()
    assert (allocator.snapshot(), allocator.reserved) == ([], 0)


def test_expandable_segments_unmap_and_retry_at_the_limit() -> None:
    allocator = freed(filled(20 * MIB, 20 * MIB, 20 * MIB, limit=60 * MIB, expandable_segments=True), 0, 2)
    allocator.malloc(3, 30 * MIB)
    assert in_mib(allocator) == [[(20, True), (30, True), (10, False)]]
    assert (allocator.retries, allocator.reserved) == (1, 60 * MIB)


def test_unmapped_gaps_are_filled_first() -> None:
    allocator = freed(filled(*[20 * MIB] * 3, expandable_segments=True), 0)
    allocator.empty_cache()
    assert in_mib(allocator) == [[(20, True), (20, True)]]
    allocator.malloc(3, 15 * MIB)
    assert in_mib(allocator) == [[(15, True), (5, False), (20, True), (20, True)]]


def test_a_request_spans_free_and_unmapped_ranges() -> None:
    allocator = freed(filled(5 * MIB, 45 * MIB, 2 * MIB, expandable_segments=True), 1)
    allocator.empty_cache()  # 5 used, 15 free, 20 unmapped, 10 free, 2 used, 8 free
    allocator.malloc(3, 40 * MIB)
    assert in_mib(allocator) == [[(5, True), (40, True), (5, False), (2, True), (8, False)]]


def test_no_more_of_a_gap_is_mapped_than_needed() -> None:
    allocator = freed(filled(5 * MIB, 65 * MIB, 2 * MIB, expandable_segments=True), 1)
    allocator.empty_cache()  # 5 used, 15 free, 40 unmapped, 10 free, 2 used, 8 free
    allocator.malloc(3, 25 * MIB)
    assert in_mib(allocator) == [[(5, True), (25, True), (10, False)], [(10, False), (2, True), (8, False)]]


def test_parts_of_two_pages_stay_mapped() -> None:
    allocator = freed(filled(15 * MIB, 10 * MIB, 15 * MIB, expandable_segments=True), 1)
    allocator.empty_cache()
    assert in_mib(allocator) == [[(15, True), (10, False), (15, True)]]


def test_out_of_memory_in_an_expandable_segment() -> None:
    allocator = filled(25 * MIB, limit=60 * MIB, expandable_segments=True)
    with pytest.raises(OutOfMemory, match="37748736 bytes asked; 41943040 bytes are reserved"):
        allocator.malloc(1, 36 * MIB)
    allocator.malloc(1, 35 * MIB)
    assert in_mib(allocator) == [[(25, True), (35, True)]]


def random_size(random_: random.Random) -> int:
    return int(2 ** random_.uniform(0, 26))


@pytest.mark.parametrize("expandable", [False, True])
@pytest.mark.parametrize("limit", [None, 700 * MIB])
def test_books_balance_on_a_random_stream(expandable: bool, limit: int | None) -> None:
    random_ = random.Random(7)
    allocator = CachingAllocator(expandable_segments=expandable, limit=limit)
    asked: dict[int, int] = {}
    failures = 0
    for key in range(3000):
        try:
            allocator.malloc(key, size := random_size(random_))
            asked[key] = size
        except OutOfMemory:
            failures += 1
        while len(asked) > 120 or (asked and random_.random() < 0.45):
            done = random_.choice(list(asked))
            del asked[done]
            allocator.free(done)
        if key % 10 == 0:
            check_books(allocator, asked)
    assert (failures > 0) == (allocator.retries > 0) == (limit is not None)
    for key in asked:
        allocator.free(key)
    assert allocator.allocated == 0
    allocator.empty_cache()
    assert (allocator.reserved, allocator.snapshot()) == (0, [])


def check_books(allocator: CachingAllocator, asked: dict[int, int]) -> None:
    segments = allocator.snapshot()
    used = [size for segment in segments for size, allocated in segment if allocated]
    assert allocator.allocated == sum(used) >= sum(asked.values())
    assert len(used) == len(asked)
    assert allocator.reserved == sum(size for segment in segments for size, _ in segment) >= allocator.allocated
    assert allocator.peak_reserved >= allocator.reserved
    assert allocator.limit is None or allocator.peak_reserved <= allocator.limit
    for segment in segments:
        assert sum(size for size, _ in segment) % (2 * MIB) == 0
        assert not any(not left and not right for (_, left), (_, right) in pairwise(segment))


@pytest.mark.parametrize("expandable", [False, True])
def test_a_long_stream_takes_little_time(expandable: bool) -> None:
    random_ = random.Random(0)
    allocator = CachingAllocator(expandable_segments=expandable)
    sizes = [random_size(random_) for _ in range(50_000)]
    lives = [random_.randrange(1, 400) for _ in sizes]
    events: list[tuple[int, int, int]] = sorted(
        [(2 * at, key, sizes[key]) for key, at in enumerate(range(len(sizes)))]
        + [(2 * (key + life) + 1, key, -1) for key, life in enumerate(lives)]
    )
    start = time.process_time()
    for _, key, size in events:
        if size < 0:
            allocator.free(key)
        else:
            allocator.malloc(key, size)
    seconds = time.process_time() - start
    print(f"\n{len(events)} events in {seconds:.3f} s")
    assert allocator.allocated == 0
    assert seconds < 2  # 0.1 s where nothing else runs
