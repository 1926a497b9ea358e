"""What data-parallel engines divide among ranks, and the buffers that they add.

Symbols: ``N`` ranks, ``P`` parameters, ``e`` bytes per element.
"""

from collections.abc import Iterable
from typing import NamedTuple

from planner.formulas.offload import page_locked


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


# ---------------------------------------------------------------- FSDP2


class Piece(NamedTuple):
    """``copies`` equal tensors of a unit that FSDP2 gathers and reduces as one.

    ``rows`` is the dimension that is divided, the first; ``columns`` counts the elements of a row, of a stacked tensor
    of experts those of one expert. A shard's element has ``stored`` bytes, a gathered one's ``computed``.
    """

    rows: int
    columns: int
    copies: int
    stored: int
    computed: int
    trained: bool

    @property
    def numel(self) -> int:
        """Elements of all copies."""
        return self.rows * self.columns * self.copies

    def chunk(self, ranks: int) -> int:
        """Elements of all copies on the fullest rank, which is the first; others are padded to as many.

        >>> Piece(rows=8, columns=100, copies=1, stored=2, computed=2, trained=False).chunk(64)
        100
        """
        return -(-self.rows // ranks) * self.columns * self.copies


def fsdp_shard(pieces: Iterable[Piece], ranks: int) -> int:
    """Bytes of one rank's shards.

    Shapes:    of a tensor (rows, columns) the first rank holds (ceil(rows / N), columns)
    Formula:   sum of ceil(rows/N) * columns * stored
    Source:    torch 2.13 distributed/fsdp/_fully_shard/_fsdp_param.py, _init_sharded_param (Shard(0), padded)
    Valid:     the default placement; a stacked tensor of E experts is divided into at most E parts
    Excludes:  what the engine leaves whole: scales of 4-bit tensors, packed integers

    >>> fsdp_shard([Piece(128256, 4096, 1, 4, 2, True), Piece(4096, 1, 65, 4, 2, True)], 512)
    4114464
    """
    return sum(piece.chunk(ranks) * piece.stored for piece in pieces)


def fsdp_locked(pieces: Iterable[Piece], ranks: int) -> int:
    """Bytes of the page-locked blocks that hold one rank's shards, a block for each tensor.

    Shapes:    as ``fsdp_shard``
    Formula:   sum of page_locked(ceil(rows/N) * columns * stored)
    Source:    torch 2.13 distributed/fsdp/_fully_shard/_fsdp_param.py, _init_sharded_param
    Valid:     CPUOffloadPolicy with pin_memory
    Excludes:  as ``fsdp_shard``

    >>> fsdp_locked([Piece(rows=5, columns=300, copies=3, stored=2, computed=2, trained=True)], 2) == 3 * 2048
    True
    """
    return sum(piece.copies * page_locked(piece.chunk(ranks) // piece.copies * piece.stored) for piece in pieces)


def fsdp_gathered(pieces: Iterable[Piece], ranks: int) -> int:
    """Bytes of a unit that is gathered: of the collective's output, and again of the tensors that it is copied into.

    Shapes:    one flat buffer of N padded chunks; then as many bytes in a tensor for each parameter
    Formula:   N * sum of ceil(rows/N) * columns * computed
    Source:    torch 2.13 distributed/fsdp/_fully_shard/_fsdp_collectives.py, foreach_all_gather and
               foreach_all_gather_copy_out
    Valid:     two ranks and more
    Excludes:  this rank's own shard; a copy of it in the dtype of compute, which goes before parameters are copied out

    >>> experts = Piece(rows=8, columns=4096 * 28672, copies=1, stored=2, computed=2, trained=False)
    >>> fsdp_gathered([experts], 8), fsdp_gathered([experts], 64)
    (1879048192, 15032385536)
    """
    return ranks * sum(piece.chunk(ranks) * piece.computed for piece in pieces)


def fsdp_gradients(pieces: Iterable[Piece]) -> int:
    """Bytes of a unit's whole gradients, as autograd makes them: in the dtype of compute, not padded.

    Shapes:    those of the trained tensors
    Formula:   sum of rows * columns * computed
    Source:    torch 2.13 distributed/fsdp/_fully_shard/_fsdp_param_group.py, post_backward
    Valid:     until they are reduced, or through every micro-step of ``no_sync``
    Excludes:  the reduction's buffers

    >>> fsdp_gradients([Piece(4096, 4096, 2, 4, 2, True), Piece(4096, 4096, 1, 2, 2, False)])
    67108864
    """
    return sum(piece.numel * piece.computed for piece in pieces if piece.trained)


def fsdp_reduced(pieces: Iterable[Piece], ranks: int) -> int:
    """Bytes of what a reduce-scatter puts out, in the dtype of compute; its input is N times as large.

    Shapes:    one flat buffer of this rank's padded chunks
    Formula:   sum of ceil(rows/N) * columns * computed
    Source:    torch 2.13 distributed/fsdp/_fully_shard/_fsdp_collectives.py, foreach_reduce; accelerate 1.15
               utils/dataclasses.py, set_mixed_precision (one dtype for parameters and reduction)
    Valid:     where trained shards have another dtype, a copy in that becomes their gradients; else it does itself
    Excludes:  that copy

    >>> fsdp_reduced([Piece(4096, 4096, 1, 4, 2, True)], 8)
    4194304
    """
    return sum(piece.chunk(ranks) * piece.computed for piece in pieces if piece.trained)
