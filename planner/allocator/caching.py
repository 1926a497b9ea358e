"""The CUDA caching allocator for one device and one stream, by the rules of torch's own.

Source: pytorch c10/cuda/CUDACachingAllocator.cpp, ``DeviceCachingAllocator``; the method that each function follows is
named in its docstring. Addresses are ours: every new segment lies above all earlier ones.
"""

from bisect import bisect_left
from typing import Literal, NamedTuple

from planner.allocator.config import Settings
from planner.allocator.constants import Constants
from planner.allocator.pools import FREE, USED, Chunk, Pool

BASE = 1 << 40
"""Address of the first segment."""

Action = Literal["segment_alloc", "segment_free", "segment_map", "segment_unmap"]
"""What happens to segments, in the words of torch's snapshots."""


class SegmentEvent(NamedTuple):
    """Memory taken from the device, or given back."""

    action: Action
    address: int
    size: int


class CachingAllocator:
    """Hands out chunks. ``reserved`` bytes are held, of a ``capacity`` that the device can give (``None``: any).

    ``idle`` bytes are those of segments that are free as a whole.
    """

    def __init__(self, constants: Constants, settings: Settings, capacity: int | None) -> None:
        self.constants, self.settings, self.capacity = constants, settings, capacity
        self.large_segment = settings.large_segment or constants.large_segment
        self.small, self.large = self._pools()
        self.reserved = self.idle = 0
        self.taken = self.given_back = self.retries = 0
        self.log: list[SegmentEvent] = []
        self._next_address = BASE
        self._oversize = settings.max_split_size
        self._limit = _limit(settings, capacity)
        self._collects = settings.garbage_collection_threshold is not None and settings.memory_fraction is not None

    def _pools(self) -> tuple[Pool, Pool]:
        """``should_split``: the small pool leaves 512 bytes or more, the large one more than 1 MiB."""
        sizes = self.constants
        small = Pool(small=True, least_rest=sizes.min_block, page=sizes.small_page)
        return small, Pool(small=False, least_rest=sizes.small_size + 1, page=self.large_segment)

    # ------------------------------------------------------------ requests

    def rounded(self, size: int) -> int:
        """``round_size``: to 512 bytes, or to a division between powers of two.

        >>> CachingAllocator(Constants(first=(2, 9)), Settings(), None).rounded(513)
        1024
        """
        least = self.constants.min_block
        if size < least:
            return least
        divisions = self._divisions(size)
        if divisions > 1 and size > least * divisions:
            return _next_division(size, divisions)
        return -(-size // least) * least

    def _divisions(self, size: int) -> int:
        table = self.settings.divisions
        return table[min(max(size.bit_length() - 21, 0), len(table) - 1)] if table else 0

    def allocate(self, size: int) -> Chunk | None:
        """``malloc``: a chunk for a rounded size, or ``None`` when the device has no more."""
        pool = self.small if size <= self.constants.small_size else self.large
        pool.searches += 1
        index = self._fit(pool, size)
        if index is None:
            chunk = self._grow(pool, size)
            if chunk is None:
                return None
        else:
            chunk = pool.free.pop(index)[2]
            if chunk.prev is None and chunk.next is None:
                self.idle -= chunk.size
        chunk.state = USED
        if chunk.size - size >= pool.least_rest and (self._oversize is None or pool.small or size < self._oversize):
            pool.add(chunk.split(size))
        return chunk

    def release(self, chunk: Chunk) -> None:
        """``free_block``: joined with free neighbours, back into its pool."""
        pool = chunk.pool
        for other in (chunk.prev, chunk.next):
            if other is not None and other.state == FREE:
                pool.remove(other)
                chunk.swallow(other)
        pool.add(chunk)
        if chunk.prev is None and chunk.next is None:
            self.idle += chunk.size

    def _fit(self, pool: Pool, size: int) -> int | None:
        """``get_free_block``: the smallest chunk that is large enough, but no oversize one for a small request."""
        index = bisect_left(pool.free, (size,))
        if index == len(pool.free):
            return None
        if self._oversize is not None and not self._allowed(size, pool.free[index][0], self._oversize):
            return None
        return index

    def _allowed(self, size: int, found: int, oversize: int) -> bool:
        if size < oversize:
            return found < oversize
        return found < size + (self.settings.max_non_split_rounding or self.large_segment)

    # ------------------------------------------------------------ segments

    def _grow(self, pool: Pool, size: int) -> Chunk | None:
        """New memory; when there is none, after giving back first what is oversize, then all that is cached."""
        if self._collects:
            self._collect()
        chunk = self._segment(pool, size)
        if chunk is None and self._release_oversize(pool, size):
            chunk = self._segment(pool, size)
        if chunk is None:
            self._release_cached()
            self.retries += 1
            chunk = self._segment(pool, size)
        return chunk

    def segment_size(self, size: int) -> int:
        """``get_allocation_size``: 2 MiB, 20 MiB, or from 10 MiB on the request in steps of 2 MiB."""
        sizes = self.constants
        if size <= sizes.small_size:
            return sizes.small_segment
        if size < sizes.min_large:
            return self.large_segment
        return -(-size // sizes.round_large) * sizes.round_large

    def _segment(self, pool: Pool, size: int) -> Chunk | None:
        """``alloc_block``: one cudaMalloc."""
        wanted = self.segment_size(size)
        if not self._has(wanted):
            return None
        chunk = Chunk(pool, self._next_address, wanted)
        self._next_address += wanted
        self._take("segment_alloc", chunk.address, wanted)
        return chunk

    def _has(self, size: int) -> bool:
        return self._limit is None or self.reserved + size <= self._limit

    def _take(self, action: Action, address: int, size: int) -> None:
        self.reserved += size
        self.taken += 1
        self.log.append(SegmentEvent(action, address, size))

    def _give_back(self, action: Action, address: int, size: int) -> None:
        self.reserved -= size
        self.given_back += 1
        self.log.append(SegmentEvent(action, address, size))

    def _release_segment(self, chunk: Chunk) -> None:
        """``release_block``: one cudaFree."""
        chunk.pool.remove(chunk)
        self.idle -= chunk.size
        self._give_back("segment_free", chunk.address, chunk.size)

    # ------------------------------------------------------------ when the device is full

    def _release_oversize(self, pool: Pool, size: int) -> bool:
        """``release_available_cached_blocks``: one oversize segment that is enough, or several, the largest first."""
        if self._oversize is None:
            return False
        wanted = max(size, self._oversize)
        index = bisect_left(pool.free, (wanted,))
        if index < len(pool.free):
            self._release_segment(pool.free[index][2])
            return True
        released = 0
        while released < wanted and pool.free and pool.free[-1][0] >= self._oversize:
            released += pool.free[-1][0]
            self._release_segment(pool.free[-1][2])
        return released >= wanted

    def _release_cached(self) -> None:
        """``release_cached_blocks``: every segment that is free as a whole."""
        for pool in (self.large, self.small):
            for chunk in pool.cached():
                if chunk.whole:
                    self._release_segment(chunk)

    def _collect(self) -> None:
        """``garbage_collect_cached_blocks``: large segments older than average, until below the threshold."""
        threshold = self.settings.garbage_collection_threshold
        if threshold is None or self._limit is None:
            return
        target = self.reserved - int(threshold * self._limit)
        ages = {chunk: self.large.searches - chunk.born for chunk in self.large.cached() if chunk.whole}
        freed = target > 0
        while target > 0 and freed and ages:
            mean = sum(ages.values()) / len(ages)
            old = [chunk for chunk, age in ages.items() if age >= mean]
            freed = bool(old)
            for chunk in old:
                target -= chunk.size
                del ages[chunk]
                self._release_segment(chunk)


def _limit(settings: Settings, capacity: int | None) -> int | None:
    if capacity is None or settings.memory_fraction is None:
        return capacity
    return int(capacity * settings.memory_fraction)


def _next_division(size: int, divisions: int) -> int:
    """``roundup_power2_next_division``: with 4 divisions, 1200 becomes 1280, of 1024, 1280, 1536, 1792.

    >>> _next_division(1200, 4)
    1280
    """
    if not size & (size - 1):
        return size
    floor = 1 << (size.bit_length() - 1)
    step = floor >> (divisions.bit_length() - 1)
    return -(-size // step) * step if step else floor << 1
