"""A smaller device than the one that is here: real requests for memory fail where the smaller one would refuse them.

CUDA: the caching allocator gets a share of the device (``set_per_process_memory_fraction``). The context is not the
allocator's and takes its part of the pretended card too, so the share is of what is left beside it.

CPU: ``RLIMIT_DATA``, which limits private writable memory, anonymous mappings included (since Linux 4.7; getrlimit(2)).
torch's allocator then fails with its own words. What the process has besides tensors is not of the cap.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from planner.errors import UnsupportedScenario, UsageError
from planner.measure.process import process_bytes
from planner.measure.values import Room
from planner.units import KIB, format_bytes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Numbers of glibc's malloc.h."""
MAPPED_FROM = 64 * KIB
"""Tensors from this size on are mappings of their own, which end with them."""
WARM_ELEMENTS = 2**20
"""So many make torch start its threads, whose stacks are private memory."""


def fraction_for(cap_bytes: int, room: Room) -> float:
    """The share of a device that the allocator may take, for a card of ``cap_bytes`` in all.

    >>> fraction_for(24 * 2**30, Room(80 * 2**30, 79 * 2**30, 2**29, 2**29)) * 80
    23.5
    """
    if cap_bytes > room.total_bytes:
        raise UsageError(
            f"--cap {format_bytes(cap_bytes)} is more than the {format_bytes(room.total_bytes)} of this device"
        )
    if cap_bytes <= room.context_bytes:
        raise UsageError(
            f"--cap {format_bytes(cap_bytes)} leaves nothing: the context alone takes "
            f"{format_bytes(room.context_bytes)}"
        )
    return (cap_bytes - room.context_bytes) / room.total_bytes


def cap_cuda(cap_bytes: int | None, room: Room) -> None:
    """Let the allocator fail as on a card of ``cap_bytes``; before anything is allocated."""
    if cap_bytes is not None:
        torch.cuda.set_per_process_memory_fraction(fraction_for(cap_bytes, room))


def prepare_process() -> None:
    """Start threads, and let large blocks go back to the system when they are freed, so that the limit counts tensors.

    Memory that malloc keeps for later is private memory as well.
    """
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for setting, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, MAPPED_FROM), (M_TRIM_THRESHOLD, 0)):
            mallopt(setting, value)
    torch.ones(WARM_ELEMENTS).add_(1)


@contextmanager
def capped_process(cap_bytes: int | None, level: int) -> Iterator[None]:
    """Within, tensors may take ``cap_bytes``, of which ``level`` are taken already.

    Afterwards there is no limit, so that a failure can be told.
    """
    if cap_bytes is None:
        yield
        return
    taken = process_bytes("VmData") if sys.platform == "linux" else None
    if taken is None:
        raise UnsupportedScenario("--cap on the processor needs Linux: leave it out, or measure on a GPU")
    import resource  # noqa: PLC0415  (not on Windows)

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (taken - level + cap_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
