"""What kernels ask the driver about a card before they decide how much memory to take."""

from typing import NamedTuple

Capability = tuple[int, int]

MULTIPROCESSORS: dict[Capability, int] = {
    (7, 0): 80,
    (7, 5): 40,
    (8, 0): 108,
    (8, 6): 84,
    (8, 9): 128,
    (9, 0): 132,
    (10, 0): 148,
    (12, 0): 170,
}
"""Of the best-known card of a capability: V100, T4, A100, A40, RTX 4090, H100 SXM, B200, RTX 5090 (their datasheets).
It moves reduction buffers of a few MiB, and nothing else."""

THREADS = {(7, 5): 1024, (8, 6): 1536, (8, 7): 1536, (8, 9): 1536, (12, 0): 1536, (12, 1): 1536}
"""Resident threads per multiprocessor where they are not 2048. CUDA C++ Programming Guide, table "Technical
Specifications per Compute Capability"."""

SHARED_BYTES = {
    (7, 0): 96 * 1024,
    (7, 5): 64 * 1024,
    (8, 0): 163 * 1024,
    (8, 7): 163 * 1024,
    (9, 0): 227 * 1024,
    (10, 0): 227 * 1024,
}
"""Shared memory that one thread block may have; 99 KiB elsewhere from 8.6 on. Same table."""


class Card(NamedTuple):
    """A card as kernels see it."""

    capability: Capability = (9, 0)
    multiprocessors: int = MULTIPROCESSORS[9, 0]

    @property
    def threads(self) -> int:
        """Resident threads per multiprocessor."""
        return THREADS.get(self.capability, 2048)

    @property
    def shared_bytes(self) -> int:
        """Shared memory that one thread block may have."""
        return SHARED_BYTES.get(self.capability, 99 * 1024)


def card_of(capability: Capability, multiprocessors: int | None = None) -> Card:
    """The card of a capability; ``multiprocessors`` where it is known.

    >>> card_of((8, 0)).multiprocessors, card_of((8, 9)).threads
    (108, 1536)
    """
    return Card(capability, multiprocessors or MULTIPROCESSORS.get(capability, MULTIPROCESSORS[9, 0]))
