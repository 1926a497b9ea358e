"""Allocations and releases of one or more training steps, in the order in which they happened.

A ``Trace`` is what the traced estimator records, what a CUDA memory snapshot converts to, and what the allocator
replays.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from planner.result import OWNERS, Memory, Phase

OUTSIDE = -1
"""Layer number of what happens before the first decoder layer, after the last, and in no layer at all."""


class Block(NamedTuple):
    """One allocation: the bytes that were asked for, whose they are, and which module or operator asked."""

    bytes: int
    owner: str
    site: str
    layer: int = OUTSIDE


class Mark(NamedTuple):
    """From event number ``index`` on the step is in ``phase``; ``step`` counts optimizer steps from 0."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls on a mark
    phase: Phase
    step: int


@dataclass(frozen=True, slots=True)
class Trace:
    """``events``: ``i`` allocates ``blocks[i]``, ``~i`` (a negative number) releases it.

    ``layers`` runs beside ``events``: the decoder layer that was at work, or ``OUTSIDE``. What a device has recorded by
    itself has no ``marks``.
    """

    blocks: tuple[Block, ...]
    events: tuple[int, ...]
    layers: tuple[int, ...]
    marks: tuple[Mark, ...]

    def phase_ranges(self) -> Iterator[tuple[Mark, int, int]]:
        """Every mark with the half-open range of events that it covers."""
        ends = [*(mark.index for mark in self.marks), len(self.events)]
        for mark, end in zip(self.marks, ends[1:], strict=True):
            yield mark, mark.index, end


class Instant(NamedTuple):
    """Live bytes by owner at the highest point of one phase of one step, and the event that reached it."""

    phase: Phase
    step: int
    index: int  # type: ignore[assignment]  # as in Mark
    memory: Memory


def peaks(trace: Trace, handed_out: Sequence[int] = ()) -> tuple[Instant, ...]:
    """The highest instant of every marked phase, in order.

    Bytes are those that were asked for, or what an allocator made of them (``Replay.handed_out``, one per block).

    >>> blocks = Block(8, "weights", "embedding"), Block(4, "logits", "head")
    >>> peaks(Trace(blocks, (0, 1, ~1), (OUTSIDE,) * 3, (Mark(0, "load", 0),)))[0].memory.total
    12
    """
    place = {owner: number for number, owner in enumerate(OWNERS)}
    live = [0] * len(OWNERS)
    sizes = handed_out or [block.bytes for block in trace.blocks]
    owners = [place[block.owner] for block in trace.blocks]
    level, found = 0, []
    for mark, start, end in trace.phase_ranges():
        best, index, at = level, start - 1, tuple(live)
        for number in range(start, end):
            event = trace.events[number]
            change = sizes[event] if event >= 0 else -sizes[~event]
            live[owners[event if event >= 0 else ~event]] += change
            level += change
            if level > best:
                best, index, at = level, number, tuple(live)
        found.append(Instant(mark.phase, mark.step, index, Memory(*at)))
    return tuple(found)
