"""What data-parallel engines divide among ranks, and the buffers that they add.

Symbols: ``N`` ranks, ``P`` parameters, ``e`` bytes per element.
"""

from typing import NamedTuple

DEEPSPEED_MAX_LIVE = 1_000_000_000
"""Parameters that ZeRO-3 keeps gathered at most. DeepSpeed runtime/zero/config.py, stage3_max_live_parameters."""


def shard(count: int, ranks: int) -> int:
    """Bytes of the fullest rank.

    >>> shard(10, 4)
    3
    """
    return -(-count // ranks)


class Divided(NamedTuple):
    """By how many ranks each state is divided."""

    weights: int
    gradients: int
    optimizer: int


def divisors(sharding: str, ranks: int) -> Divided:
    """Which states a scheme divides.

    Shapes:    weights, gradients and optimizer states, each P elements
    Formula:   stage 1 divides optimizer states, 2 also gradients, 3 and FSDP also weights
    Source:    Rajbhandari 2020, arXiv:1910.02054, section 5; Zhao 2023, arXiv:2304.11277
    Valid:     ``ranks`` that share one copy of the model: under hybrid sharding those of one machine
    Excludes:  buffers

    >>> divisors("zero2", 8)
    Divided(weights=1, gradients=8, optimizer=8)
    """
    stage = {"none": 0, "ddp": 0, "zero1": 1, "zero2": 2, "zero3": 3, "fsdp": 3, "hsdp": 3}[sharding]
    return Divided(*(ranks if stage >= least else 1 for least in (3, 2, 1)))


def ddp_buckets(gradient_bytes: int) -> int:
    """Bytes of DistributedDataParallel's buckets: a second copy of all gradients.

    Shapes:    flat buckets of 25 MiB that together hold every trained parameter's gradient
    Formula:   gradient_bytes
    Source:    Li 2020, arXiv:2006.15704, section 4.2; torch reducer.cpp with gradient_as_bucket_view=False
    Valid:     Accelerate's default
    Excludes:  NCCL's own buffers

    >>> ddp_buckets(1000)
    1000
    """
    return gradient_bytes


def deepspeed_reduce_buffers(*, h: int, e: int) -> int:
    """Bytes of ZeRO-1 and ZeRO-2's flat reduction buffers under transformers' ``auto`` sizes.

    Shapes:    two buffers of h*h elements, two because communication overlaps
    Formula:   2 * e * h**2
    Source:    transformers integrations/deepspeed.py (reduce_bucket_size = hidden_size**2); DeepSpeed stage_1_and_2.py
    Valid:     bucket sizes left on ``auto``; DeepSpeed's own default is 5e8 elements
    Excludes:  the gradients themselves

    >>> deepspeed_reduce_buffers(h=4096, e=2)
    67108864
    """
    return 2 * e * h * h


def zero3_live_parameters(*, params: int, h: int, e: int) -> int:
    """Bytes of gathered weights that ZeRO-3 keeps at most, with the next group on its way.

    Shapes:    live parameters up to 1e9; prefetch bucket 0.9 * h**2
    Formula:   e * (min(P, 1e9) + 0.9 * h**2)
    Source:    DeepSpeed runtime/zero/config.py; transformers integrations/deepspeed.py (prefetch 0.9 * hidden_size**2)
    Valid:     defaults
    Excludes:  this rank's own shard

    >>> zero3_live_parameters(params=70_000_000_000, h=8192, e=2)
    2120795954
    """
    return e * min(params, DEEPSPEED_MAX_LIVE) + int(0.9 * h * h) * e


def fsdp_gathered(*, block: int, outer: int, e: int) -> int:
    """Bytes of gathered weights: the current layer, the one prefetched, and the head's group.

    Shapes:    two layers of ``block`` parameters; ``outer`` parameters of final norm and head
    Formula:   e * (2 * block + outer)
    Source:    torch distributed/fsdp/_fully_shard/_fsdp_param_group.py (backward prefetch of one group);
               accelerate 1.15 utils/fsdp_utils.py (embedding and [norm, head] in groups of their own)
    Valid:     FSDP2 with transformer-block wrapping
    Excludes:  this rank's own shard

    >>> fsdp_gathered(block=218_112_000, outer=525_340_672, e=2)
    1923129344
    """
    return e * (2 * block + outer)
