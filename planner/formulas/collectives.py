"""What ranks send each other: the bytes of each collective, its time, and what one optimizer step asks of one rank."""

import math
from typing import Literal, NamedTuple

from planner.result import Axis

__all__ = ["Axis", "Exchange", "Kind", "Route", "exchange_seconds", "ring_share"]

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


class Route(NamedTuple):
    """What joins the ranks of a group: ``within`` of them in each machine, and rates of one way in bytes a second.

    ``inside``: of one card to its machine; ``outside``: what the group may use of a machine's network; ``None`` where
    no bytes of the group take that way. ``hop_inside`` and ``hop_outside``: seconds until a message has gone one step.
    """

    ranks: int
    within: int
    inside: float | None
    outside: float | None
    hop_inside: float
    hop_outside: float

    @property
    def machines(self) -> int:
        """Machines that the group stands in."""
        return -(-self.ranks // self.within)


def exchange_seconds(exchange: Exchange, route: Route) -> float:
    """Seconds that the collectives of an exchange take by themselves.

    Shapes:    R ranks, G of them in each of M machines; a rank sends ``sent`` bytes, the whole tensors have P
    Formula:   max(sent / inside, P * (M - 1) / M / outside) + calls * (hops inside and outside)
    Source:    hierarchical rings: a gather brings P * (R - 1) / R into each card and only P * (M - 1) / M into a
               machine, whose adapters its cards share; Thakur 2005, doi:10.1177/1094342005051521
    Valid:     rings for gathers and reductions, R - 1 hops; trees for an all-reduce, 2 * (log2(M) + G - 1) hops (NCCL
               src/graph/tuning.cc); messages that are larger than a hop's latency
    Excludes:  reduction inside the switches

    >>> gather = Exchange("shard", "all_gather", 16, sent=15.0, calls=0, hidden=True)
    >>> exchange_seconds(gather, Route(16, 8, inside=5.0, outside=2.0, hop_inside=0.0, hop_outside=0.0))
    4.0
    """
    if route.ranks == 1:
        return 0.0
    inside = exchange.sent / route.inside if route.inside else 0.0
    outside = _leaving(exchange, route) / route.outside if route.outside else 0.0
    return max(inside, outside) + exchange.calls * _latency(exchange.kind, route)


def _leaving(exchange: Exchange, route: Route) -> float:
    """Bytes that the ranks of the group in one machine send to other machines, together."""
    if exchange.kind == "send":
        return exchange.sent * route.within
    if exchange.kind == "all_to_all":
        return exchange.sent * route.within * (route.ranks - route.within) / (route.ranks - 1)
    return exchange.sent / ring_share(route.ranks) * ring_share(route.machines)


def _latency(kind: Kind, route: Route) -> float:
    """Seconds of one call without bytes."""
    machines, beside = route.machines, route.within - 1
    if kind == "all_reduce":
        return 2 * (math.ceil(math.log2(machines)) * route.hop_outside + beside * route.hop_inside)
    if kind in ("send", "all_to_all"):
        return route.hop_outside if machines > 1 else route.hop_inside
    return (machines - 1) * route.hop_outside + (route.ranks - machines) * route.hop_inside
