"""Cards as they are let: which of them can be used, in which numbers, and which of them can do most."""

from collections.abc import Iterable

from planner.recommend.rules.gpu import CUDA_WHEELS_FROM
from planner.spec import Gpu

PER_MACHINE = {"gh200": 1, "gb200": 4}
"""Cards that no machine holds eight of: a Grace Hopper superchip has one GPU, and a compute tray of the GB200 NVL72
four (NVIDIA's data sheets)."""


FULL_MACHINE = 8
"""Cards of a full machine of all other kinds."""


def served(gpu: Gpu) -> bool:
    """Whether current torch wheels serve the card (rule GPU001)."""
    return gpu.compute_capability is None or gpu.compute_capability >= CUDA_WHEELS_FROM


def is_let(gpu: Gpu, count: int) -> bool:
    """Whether so many of the card are let together.

    >>> from planner.hardware import load_gpu
    >>> is_let(load_gpu("gh200"), 2), is_let(load_gpu("gb200"), 4), is_let(load_gpu("a100"), 16)
    (False, True, True)
    """
    return count <= PER_MACHINE.get(gpu.id, count)


def counts_of(gpu: Gpu, most: int) -> tuple[int, ...]:
    """Numbers of cards in which a kind is let: doubled up to a full machine, then full machines, doubled.

    >>> from planner.hardware import load_gpu
    >>> counts_of(load_gpu("a100"), 8), counts_of(load_gpu("a100"), 20), counts_of(load_gpu("gb200"), 8)
    ((1, 2, 4, 8), (1, 2, 4, 8, 16), (1, 2, 4))
    """
    return tuple(count for count in (2**power for power in range(11)) if count <= most and is_let(gpu, count))


def most_capable(gpus: Iterable[Gpu]) -> Gpu:
    """The card on which most settings can be estimated and which no other undercuts in bytes."""
    return max(gpus, key=lambda gpu: (gpu.supports_bf16, gpu.supports_flash, gpu.memory_bytes))
