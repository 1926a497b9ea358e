"""Chunks of device memory, and the two pools that keep the free ones in order.

Source: pytorch c10/cuda/CUDACachingAllocator.cpp, ``Block``, ``BlockPool``, ``BlockComparatorSize``. A chunk is torch's
``Block``; the word is taken here by what a program asked for.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

USED, FREE, UNMAPPED = 0, 1, 2
"""States of a chunk: handed out; cached; addresses without memory behind them (expandable segments)."""

Entry = tuple[int, int, "Chunk"]
"""Size, address, chunk: sorted, the first entry that is large enough is the best fit, lowest address first."""


class Chunk:
    """A piece of a segment, with its neighbours by address."""

    __slots__ = ("address", "born", "next", "pool", "prev", "size", "state")

    def __init__(self, pool: "Pool", address: int, size: int) -> None:
        self.pool = pool
        self.address = address
        self.size = size
        self.prev: Chunk | None = None
        self.next: Chunk | None = None
        self.state = USED
        self.born = 0
        """Searches that the pool had seen when the chunk became free: its age, for garbage collection."""

    @property
    def whole(self) -> bool:
        """Whether it is a segment by itself."""
        return self.prev is None and self.next is None

    @property
    def mapped(self) -> bool:
        """Whether there is memory behind its addresses."""
        return self.state != UNMAPPED

    def split(self, size: int) -> "Chunk":
        """Keep the first ``size`` bytes; the rest, a new chunk behind."""
        rest = Chunk(self.pool, self.address + size, self.size - size)
        self.size = size
        rest.prev, rest.next = self, self.next
        if rest.next is not None:
            rest.next.prev = rest
        self.next = rest
        return rest

    def swallow(self, other: "Chunk") -> None:
        """Become one with a neighbour."""
        if other is self.prev:
            self.address = other.address
            self.prev = other.prev
            if self.prev is not None:
                self.prev.next = self
        else:
            self.next = other.next
            if self.next is not None:
                self.next.prev = self
        self.size += other.size


class Pool:
    """Free chunks by size and address; ``least_rest`` bytes or more are split off what is too large."""

    __slots__ = ("free", "least_rest", "page", "searches", "small", "unmapped")

    def __init__(self, *, small: bool, least_rest: int, page: int) -> None:
        self.small = small
        self.least_rest = least_rest
        self.page = page
        self.searches = 0
        self.free: list[Entry] = []
        self.unmapped: list[tuple[int, Chunk]] = []
        """By address; only expandable segments have any."""

    def add(self, chunk: Chunk) -> None:
        """Cache a chunk."""
        chunk.state = FREE
        chunk.born = self.searches
        insort(self.free, (chunk.size, chunk.address, chunk))

    def remove(self, chunk: Chunk) -> None:
        """Take a chunk out of the cache."""
        del self.free[bisect_left(self.free, (chunk.size, chunk.address))]

    def add_unmapped(self, chunk: Chunk) -> None:
        """Remember addresses without memory."""
        chunk.state = UNMAPPED
        insort(self.unmapped, (chunk.address, chunk))

    def remove_unmapped(self, chunk: Chunk) -> None:
        """Forget them."""
        del self.unmapped[bisect_left(self.unmapped, (chunk.address,))]

    def cached(self) -> Iterator[Chunk]:
        """Free chunks, smallest first, as they are now; the pool may change meanwhile."""
        for _, _, chunk in list(self.free):
            yield chunk
