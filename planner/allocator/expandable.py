"""Expandable segments: one long range of addresses per pool, behind which memory comes and goes in pages.

Source: pytorch c10/cuda/CUDACachingAllocator.cpp, ``ExpandableSegment``, ``find_expandable_block``, ``map_block``,
``unmap_block``.
"""

from bisect import bisect_left

from planner.allocator.caching import CachingAllocator
from planner.allocator.pools import FREE, UNMAPPED, USED, Chunk, Pool

UNLIMITED_RANGE = 1 << 46
"""Addresses of a segment when nothing limits the device (bytes)."""


class ExpandableAllocator(CachingAllocator):
    """As the plain one, except where memory comes from and how it goes back."""

    def _pools(self) -> tuple[Pool, Pool]:
        """``should_split``: with expandable segments both pools leave 512 bytes or more."""
        small, large = super()._pools()
        large.least_rest = small.least_rest
        return small, large

    def release(self, chunk: Chunk) -> None:
        """As the plain one; no segment is ever idle or split here."""
        pool = chunk.pool
        self._join(chunk, FREE)
        pool.add(chunk)

    def _join(self, chunk: Chunk, state: int) -> None:
        """``try_merge_blocks`` on both sides, with neighbours in the given state."""
        forget = chunk.pool.remove if state == FREE else chunk.pool.remove_unmapped
        for other in (chunk.prev, chunk.next):
            if other is not None and other.state == state:
                forget(other)
                chunk.swallow(other)

    def _fit(self, pool: Pool, size: int) -> int | None:
        """``get_free_block``: what counts for the best fit is the size to which a chunk can grow."""
        free = pool.free
        index = bisect_left(free, (size,))
        if index == len(free):
            return None
        room = _room(free[index][2])
        while index + 1 < len(free) and (wider := _room(free[index + 1][2])) < room:
            index, room = index + 1, wider
        if self._oversize is not None and not self._allowed(size, free[index][0], self._oversize):
            return None
        return index

    # ------------------------------------------------------------ pages

    def _segment(self, pool: Pool, size: int) -> Chunk | None:
        """``try_allocate_expandable_block``: memory behind unused addresses, joined with what is free before them."""
        if self.settings.memory_fraction is not None and not self._has(self.segment_size(size)):
            return None
        chunk = self._find(pool, size)
        if chunk.state == UNMAPPED and not self._map(chunk, min(size, chunk.size)):
            return None
        while chunk.size < size:
            behind = chunk.next
            if behind is None or not self._map(behind, min(size - chunk.size, behind.size)):
                return None
            chunk = behind
        pool.remove(chunk)
        return chunk

    def _find(self, pool: Pool, size: int) -> Chunk:
        """``find_expandable_block``: the lowest unused addresses that reach far enough, or a new range.

        A range is one and an eighth of the device's memory.
        """
        for _, chunk in pool.unmapped:
            start = chunk.prev if chunk.prev is not None and chunk.prev.state == FREE else chunk
            if _reaches(start, size):
                return start
        length = UNLIMITED_RANGE if self.capacity is None else self.capacity * 9 // 8
        address = -(-self._next_address // pool.page) * pool.page
        chunk = Chunk(pool, address, -(-max(length, size) // pool.page) * pool.page)
        self._next_address = address + chunk.size
        pool.add_unmapped(chunk)
        return chunk

    def _map(self, chunk: Chunk, size: int) -> bool:
        """``map_block``: whole pages behind the beginning of a chunk; all of them or none."""
        pool = chunk.pool
        size = min(-(-size // pool.page) * pool.page, chunk.size)
        if not self._has(size):
            return False
        pool.remove_unmapped(chunk)
        if size < chunk.size:
            pool.add_unmapped(chunk.split(size))
        self._take("segment_map", chunk.address, size)
        self._join(chunk, FREE)
        pool.add(chunk)
        return True

    def _unmap(self, chunk: Chunk) -> None:
        """``unmap_block``: the pages that lie wholly in a free chunk; what is left at its ends stays cached."""
        pool = chunk.pool
        start = -(-chunk.address // pool.page) * pool.page
        end = (chunk.address + chunk.size) // pool.page * pool.page
        if start >= end:
            return
        pool.remove(chunk)
        if start > chunk.address:
            before, chunk = chunk, chunk.split(start - chunk.address)
            pool.add(before)
        if end < chunk.address + chunk.size:
            pool.add(chunk.split(end - start))
        self._give_back("segment_unmap", start, end - start)
        self._join(chunk, UNMAPPED)
        if not chunk.whole:
            pool.add_unmapped(chunk)

    # ------------------------------------------------------------ when the device is full

    def _release_oversize(self, pool: Pool, size: int) -> bool:
        """Expandable segments are passed over."""
        return False

    def _release_cached(self) -> None:
        """``release_blocks``: every page that nothing uses."""
        for pool in (self.large, self.small):
            for chunk in pool.cached():
                self._unmap(chunk)

    def _collect(self) -> None:
        """Expandable segments are passed over."""


def _room(chunk: Chunk) -> int:
    behind = chunk.next
    return chunk.size + (behind.size if behind is not None and behind.state == UNMAPPED else 0)


def _reaches(chunk: Chunk | None, size: int) -> bool:
    """Whether unused addresses from a chunk on are enough."""
    found = 0
    while found < size and chunk is not None and chunk.state != USED:
        found += chunk.size
        chunk = chunk.next
    return found >= size
