"""Sizes by which torch's CUDA caching allocator works, for each range of torch versions."""

from dataclasses import dataclass

from planner.errors import UnsupportedScenario
from planner.units import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """Bytes. Names of torch's own in brackets; files under ``c10/`` of the torch source.

    They stand in ``core/AllocatorConfig.h`` from 2.10 on; in 2.9 all but kLargeBuffer in
    ``cuda/CUDACachingAllocator.cpp``.
    """

    first: tuple[int, int]
    """First torch version of the range; it ends where the next one begins."""

    min_block: int = 512
    """Every size is rounded up to a multiple of this (kMinBlockSize)."""

    small_size: int = 1 * MIB
    """Largest request that the small pool serves, and the largest rest that the large pool leaves unsplit
    (kSmallSize; ``get_pool`` and ``should_split``)."""

    small_segment: int = 2 * MIB
    """What is taken from the device for a small request (kSmallBuffer; ``get_allocation_size``)."""

    min_large: int = 10 * MIB
    """Requests from here on get a segment of their own (kMinLargeAlloc; ``get_allocation_size``)."""

    large_segment: int = 20 * MIB
    """What is taken for a request between the two (kLargeBuffer; from 2.11 on the default of large_segment_size)."""

    round_large: int = 2 * MIB
    """Own segments are multiples of this (kRoundLarge)."""

    small_page: int = 2 * MIB
    """What an expandable segment of the small pool grows by (kSmallBuffer; ``find_expandable_block``)."""

    large_page: int = 20 * MIB
    """What an expandable segment of the large pool grows by (kLargeBuffer; ``find_expandable_block``)."""


VERSIONS: tuple[Constants, ...] = (Constants(first=(2, 9)), Constants(first=(2, 11)))
"""One entry wherever something changed: in 2.11 the large segment became a setting. The values are the same in the
headers of 2.10.0, 2.11.0, 2.12.0 and 2.13.0; 2.9.1's has the large one only, and the others are taken to be as before
and after."""

NEWEST = (2, 13)
"""Newest version whose header was read; later ones are taken as this one."""


def constants(version: tuple[int, ...] = NEWEST) -> Constants:
    """The constants of a torch version.

    >>> constants((2, 10)).large_segment
    20971520
    """
    known = [entry for entry in VERSIONS if entry.first <= version]
    if not known:
        wanted, first = (".".join(map(str, number)) for number in (version, VERSIONS[0].first))
        raise UnsupportedScenario(f"torch {wanted}: its allocator is not modelled; the oldest known is {first}")
    return known[-1]
