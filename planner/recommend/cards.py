"""Cards as they are let: which of them can be used, in which numbers, and which of them can do most."""

from collections.abc import Iterable
from dataclasses import replace

from planner.recommend.rules.gpu import CUDA_WHEELS_FROM
from planner.spec import Gpu

FULL_MACHINE = 8
"""Cards of a full machine of most kinds."""

MACHINES = (*range(2, 9), *(2**power * step for power in range(7) for step in (12, 16)))
"""Machines that are tried together: beyond 8 in the steps in which clusters are let."""

MOST_CARDS = 1024
"""Cards beyond which nothing is looked for."""


def served(gpu: Gpu) -> bool:
    """Whether current torch wheels serve the card (rule GPU001)."""
    return gpu.compute_capability is None or gpu.compute_capability >= CUDA_WHEELS_FROM


def is_let(gpu: Gpu, count: int, network_gbps: float | None = None) -> bool:
    """Whether so many of the card are let together: in one machine, or in full ones whose network is known.

    >>> from planner.hardware import load_gpu
    >>> is_let(load_gpu("gb200"), 4), is_let(load_gpu("gb200"), 6), is_let(load_gpu("a100"), 16)
    (True, False, True)
    >>> is_let(load_gpu("4090"), 16), is_let(load_gpu("4090"), 16, network_gbps=25)
    (False, True)
    """
    if count <= gpu.gpus_per_node:
        return True
    networked = network_gbps is not None or gpu.network_bytes_per_s is not None
    return networked and count % gpu.gpus_per_node == 0


def numbers(
    gpu: Gpu, network_gbps: float | None = None, width: int | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of cards that are tried: all in one machine, and in several full ones whose network is known.

    ``width``: cards in a machine of the user's, else the largest that is let.

    >>> from planner.hardware import load_gpu
    >>> numbers(load_gpu("gb200"))[0], numbers(load_gpu("gb200"))[1][:4], numbers(load_gpu("a100"), width=2)[1][:4]
    ((1, 2, 3, 4), (8, 12, 16, 20), (4, 6, 8, 10))
    """
    width = width or gpu.gpus_per_node
    networked = network_gbps is not None or gpu.network_bytes_per_s is not None
    several = (width * count for count in MACHINES) if networked else ()
    return tuple(range(1, width + 1)), tuple(count for count in several if count <= MOST_CARDS)


def counts_of(gpu: Gpu, most: int, network_gbps: float | None = None) -> tuple[int, ...]:
    """Numbers of cards in which a kind is let: doubled up to a full machine, then full machines, doubled.

    >>> from planner.hardware import load_gpu
    >>> counts_of(load_gpu("a100"), 8), counts_of(load_gpu("a100"), 20), counts_of(load_gpu("4090"), 16)
    ((1, 2, 4, 8), (1, 2, 4, 8, 16), (1, 2, 4, 8))
    """
    doubled = (2**power for power in range(11))
    return tuple(count for count in doubled if count <= most and is_let(gpu, count, network_gbps))


def in_one(gpu: Gpu, count: int) -> Gpu:
    """The card as if one machine held ``count`` of it: for bytes, which do not depend on machines."""
    return gpu if count <= gpu.gpus_per_node else replace(gpu, gpus_per_node=count)


def most_capable(gpus: Iterable[Gpu]) -> Gpu:
    """The card on which most settings can be estimated and which no other undercuts in bytes."""
    return max(gpus, key=lambda gpu: (gpu.supports_bf16, gpu.supports_flash, gpu.memory_bytes))
