"""PyTorch's caching allocator for CUDA, simulated on sizes alone, so that reserved memory is predicted, not guessed.

It follows `DeviceCachingAllocator` of `c10/cuda/CUDACachingAllocator.cpp` and the constants of
`c10/core/AllocatorConfig.h` (torch 2.11 to 2.13) at default settings: one stream, no `max_split_size`, no rounding to
powers of two, no garbage collection threshold, no private pools. Names in brackets below are functions of that file.

Two things a simulation cannot know are settled so: a new segment lies above all earlier ones (the address only breaks
ties between free blocks of equal size), and the address space of an expandable segment never runs out (torch reserves
9/8 of the card's memory).
"""

from __future__ import annotations

from bisect import bisect_left, insort

MIB = 2**20
BLOCK_ALIGNMENT = 512
SMALL_SIZE = MIB
"""The largest request that the small pool serves (`kSmallSize`)."""
SMALL_SEGMENT, LARGE_SEGMENT = 2 * MIB, 20 * MIB
"""Bytes of a small segment and of one that requests below LARGE_REQUEST share; the pages of expandable segments too."""
LARGE_REQUEST = 10 * MIB
LARGE_ALIGNMENT = 2 * MIB
ADDRESS_SPACE = LARGE_SEGMENT * 2**30


class OutOfMemory(Exception):
    """The limit does not suffice, even after cached segments were released. For callers here, not for users."""


class _Block:
    """A range of addresses of one segment; `prev` and `next` are its neighbours there. Only ranges of expandable
    segments can be without physical memory (`mapped`)."""

    __slots__ = ("address", "allocated", "mapped", "next", "pool", "prev", "size")

    def __init__(
        self, pool: _Pool, address: int, size: int, prev: _Block | None, next: _Block | None, mapped: bool = True
    ) -> None:
        self.pool, self.address, self.size, self.mapped, self.allocated = pool, address, size, mapped, False
        self.link(prev, next)

    def link(self, prev: _Block | None, next: _Block | None) -> None:
        """Puts the block between two neighbours (`splice`)."""
        self.prev, self.next = prev, next
        if prev:
            prev.next = self
        if next:
            next.prev = self

    def room(self) -> int:
        """Bytes that this free block can grow to, with the unmapped range behind it."""
        return self.size + (self.next.size if self.next and not self.next.mapped else 0)


class _Pool:
    """Blocks of small or of large requests that nobody uses: `free` by size, then address; `unmapped` by address."""

    __slots__ = ("free", "page", "split_from", "unmapped")

    def __init__(self, page: int, split_from: int, expandable: bool) -> None:
        self.page, self.split_from = page, split_from
        self.free: list[tuple[int, int, _Block]] = []
        self.unmapped: list[tuple[int, _Block]] = []
        if expandable:
            self.add(_Block(self, 0, ADDRESS_SPACE, None, None, mapped=False))

    def add(self, block: _Block) -> None:
        if block.mapped:
            insort(self.free, (block.size, block.address, block))
        else:
            insort(self.unmapped, (block.address, block))

    def remove(self, block: _Block) -> None:
        if block.mapped:
            del self.free[bisect_left(self.free, (block.size, block.address))]
        else:
            del self.unmapped[bisect_left(self.unmapped, (block.address,))]

    def add_merged(self, block: _Block) -> None:
        """Adds a block after it has swallowed unused neighbours of its kind (`try_merge_blocks`)."""
        before, after = block.prev, block.next
        if before and not before.allocated and before.mapped == block.mapped:
            self.remove(before)
            block.address, block.size = before.address, block.size + before.size
            block.link(before.prev, after)
        if after and not after.allocated and after.mapped == block.mapped:
            self.remove(after)
            block.size += after.size
            block.link(block.prev, after.next)
        self.add(block)


class CachingAllocator:
    """The state of the allocator. All sizes are bytes.

    `allocated` and `reserved` are what `torch.cuda.memory_allocated` and `memory_reserved` would say, the peaks their
    maxima; a block that is not split counts whole. `limit` is the most that segments can take on the card, where
    `cudaMalloc` or `cuMemCreate` fails; `retries` counts how often that made the allocator release what it had cached
    (`num_alloc_retries`).
    """

    def __init__(self, *, expandable_segments: bool = False, limit: int | None = None) -> None:
        self.expandable_segments, self.limit = expandable_segments, limit
        self.allocated = self.reserved = self.peak_allocated = self.peak_reserved = self.retries = 0
        self._small = _Pool(SMALL_SEGMENT, BLOCK_ALIGNMENT, expandable_segments)
        # `should_split`: the rest of a large block is left to it unless it is larger than any small request.
        rest = BLOCK_ALIGNMENT if expandable_segments else SMALL_SIZE + BLOCK_ALIGNMENT
        self._large = _Pool(LARGE_SEGMENT, rest, expandable_segments)
        self._live: dict[int, _Block | None] = {}
        self._next_address = 0

    def malloc(self, key: int, size: int) -> None:
        """Takes a block for `size` bytes under a key of the caller's (`malloc`, `alloc_found_block`); none for 0 bytes.

        Raises OutOfMemory, and ValueError for a key in use.
        """
        if key in self._live:
            raise ValueError(f"{key} is allocated already")
        if size == 0:
            self._live[key] = None
            return
        rounded = _round_up(size, BLOCK_ALIGNMENT)
        pool = self._small if rounded <= SMALL_SIZE else self._large
        block = self._find_free(pool, rounded) or self._new_block(pool, rounded)
        if block is None:
            raise OutOfMemory(
                f"{size} bytes asked; {self.reserved} bytes are reserved, {self.allocated} of them allocated; "
                f"the limit is {self.limit}"
            )
        block.allocated = True
        rest = block.size - rounded
        if rest >= pool.split_from:
            block.size = rounded
            pool.add(_Block(pool, block.address + rounded, rest, block, block.next))
        self._live[key] = block
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)

    def free(self, key: int) -> None:
        """Gives a block back to its pool (`free_block`). Raises KeyError for a key not in use."""
        block = self._live.pop(key)
        if block:
            self.allocated -= block.size
            block.allocated = False
            block.pool.add_merged(block)

    def empty_cache(self) -> None:
        """Returns unused memory to the card: whole segments, or whole pages of expandable ones (`release_blocks`)."""
        for pool in (self._large, self._small):
            for _, _, block in list(pool.free):
                if self.expandable_segments:
                    self._unmap(block)
                elif not block.prev and not block.next:
                    pool.remove(block)
                    self.reserved -= block.size

    def snapshot(self) -> list[list[tuple[int, bool]]]:
        """Segments, each as its blocks (size, allocated) in order of address; of an expandable segment, every run of
        mapped blocks. Large segments come first."""
        blocks = [block for block in self._live.values() if block]
        blocks += [entry[2] for pool in (self._large, self._small) for entry in pool.free]
        heads = [block for block in blocks if not (block.prev and block.prev.mapped)]
        segments = []
        for head in sorted(heads, key=lambda block: (block.pool is self._small, block.address)):
            segments.append([(head.size, head.allocated)])
            while (head := head.next) and head.mapped:
                segments[-1].append((head.size, head.allocated))
        return segments

    def _find_free(self, pool: _Pool, size: int) -> _Block | None:
        """The smallest free block that suffices (`get_free_block`). In expandable segments a block counts with the room
        it could grow into, so that the end of a segment is taken last."""
        free = pool.free
        at = bisect_left(free, (size,))
        if at == len(free):
            return None
        if self.expandable_segments:
            while at + 1 < len(free) and free[at + 1][2].room() < free[at][2].room():
                at += 1
        return free.pop(at)[2]

    def _new_block(self, pool: _Pool, size: int) -> _Block | None:
        """A block of fresh memory; at the limit once more, after all cached memory was released (`malloc`)."""
        reserve = self._grow if self.expandable_segments else self._new_segment
        if block := reserve(pool, size):
            return block
        self.empty_cache()
        self.retries += 1
        return reserve(pool, size)

    def _new_segment(self, pool: _Pool, size: int) -> _Block | None:
        """A whole new segment (`get_allocation_size`, `alloc_block`); None at the limit."""
        segment = pool.page if size < LARGE_REQUEST else _round_up(size, LARGE_ALIGNMENT)
        if not self._reserve(segment):
            return None
        self._next_address += segment
        return _Block(pool, self._next_address - segment, segment, None, None)

    def _grow(self, pool: _Pool, size: int) -> _Block | None:
        """Maps pages at the lowest address where free and unmapped ranges in a row suffice
        (`find_expandable_block`, `try_allocate_expandable_block`); None at the limit, what was mapped stays free."""
        block = next(start for start in map(_start, pool.unmapped) if _has_space(start, size))
        if not block.mapped and not self._map(block, min(block.size, size)):
            return None
        while block.size < size:
            block, have = block.next, block.size
            if not self._map(block, min(block.size, size - have)):
                return None
        pool.remove(block)
        return block

    def _map(self, block: _Block, size: int) -> bool:
        """Backs the first `size` bytes of an unmapped range, in whole pages (`map_block`); False at the limit."""
        pool = block.pool
        mapped = _round_up(size, pool.page)
        if not self._reserve(mapped):
            return False
        pool.remove(block)
        if mapped < block.size:
            pool.add(_Block(pool, block.address + mapped, block.size - mapped, block, block.next, mapped=False))
        block.size, block.mapped = mapped, True
        pool.add_merged(block)
        return True

    def _unmap(self, block: _Block) -> None:
        """Returns the whole pages of a free block; what lies on shared pages stays free (`unmap_block`)."""
        pool, end = block.pool, block.address + block.size
        first, last = _round_up(block.address, pool.page), end // pool.page * pool.page
        if first >= last:
            return
        pool.remove(block)
        if first > block.address:
            pool.add(_Block(pool, block.address, first - block.address, block.prev, block))
        if end > last:
            pool.add(_Block(pool, last, end - last, block, block.next))
        block.address, block.size, block.mapped = first, last - first, False
        pool.add_merged(block)
        self.reserved -= last - first

    def _reserve(self, size: int) -> bool:
        if self.limit is not None and self.reserved + size > self.limit:
            return False
        self.reserved += size
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return True


def _start(entry: tuple[int, _Block]) -> _Block:
    """Where an allocation over an unmapped range may begin: at a free block before it, if there is one."""
    before = entry[1].prev
    return before if before and not before.allocated else entry[1]


def _has_space(block: _Block | None, size: int) -> bool:
    while block and not block.allocated and size > 0:
        size -= block.size
        block = block.next
    return size <= 0


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step
