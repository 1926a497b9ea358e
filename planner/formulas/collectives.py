"""What ranks send each other: the bytes of each collective, and what one optimizer step asks of one rank."""

from typing import Literal, NamedTuple

Axis = Literal["shard", "replicate", "tensor", "context", "ulysses", "pipeline", "expert"]
"""The group of ranks that communicate, by the size of the layout that it divides."""

Kind = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "send"]


class Exchange(NamedTuple):
    """Collectives of one kind among the ranks of one axis, of one rank in one optimizer step.

    ``sent``: bytes that the rank sends in all of them together, one way; it receives as many. ``calls``: how many there
    are. ``hidden``: whether the engine runs them beside the computation.
    """

    axis: Axis
    kind: Kind
    ranks: int
    sent: float
    calls: int
    hidden: bool


def ring_share(ranks: int) -> float:
    """Share of a tensor that one rank sends when a ring gathers it or reduces and scatters it.

    Shapes:    a tensor of which every rank holds one of ``ranks`` parts
    Formula:   (ranks - 1) / ranks; an all-reduce is both and sends twice that
    Source:    Thakur 2005, doi:10.1177/1094342005051521, sections 4.1 and 4.4
    Valid:     ring algorithms, which NCCL takes for large messages
    Excludes:  latency

    >>> ring_share(4)
    0.75
    """
    return (ranks - 1) / ranks
