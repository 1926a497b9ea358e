"""Memory over a trace in as many points as a picture has room for, without losing a peak."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from planner.allocator.events import Trace
from planner.result import OWNERS, Memory, Phase

POINTS = 2000
"""About as many as a wide picture has columns."""

LEAST = 24
"""Points for a phase of few events, as far as it has so many."""


class Span(NamedTuple):
    """One phase of one step: events ``start`` to ``end``, the last not among them. Without a mark there is no phase."""

    phase: Phase | None
    step: int
    start: int
    end: int


class Sample(NamedTuple):
    """Live bytes after event ``number``, within the span of that place."""

    span: int
    number: int
    memory: Memory


def spans(trace: Trace) -> tuple[Span, ...]:
    """The whole trace in order; what comes before the first mark is a span without a phase."""
    marked = [Span(mark.phase, mark.step, start, end) for mark, start, end in trace.phase_ranges()]
    first = marked[0].start if marked else len(trace.events)
    return (Span(None, 0, 0, first), *marked) if first or not marked else tuple(marked)


def curve(trace: Trace, handed_out: Sequence[int] = (), *, points: int = POINTS) -> tuple[Sample, ...]:
    """What is live when a span begins, then the highest instant of each of its buckets; what is live in the end.

    Of equally high instants it is the first. So every peak of ``peaks`` is among the samples, with the same event
    and the same bytes.

    >>> from planner.allocator.events import OUTSIDE, Block, Mark
    >>> blocks = Block(8, "weights", "embedding"), Block(4, "logits", "head")
    >>> one = Trace(blocks, (0, 1, ~1), (OUTSIDE,) * 3, (Mark(0, "load", 0),))
    >>> [(sample.number, sample.memory.total) for sample in curve(one)]
    [(-1, 0), (0, 8), (1, 12), (2, 8)]
    """
    levels = _Levels(trace, handed_out)
    total = max(len(trace.events), 1)
    found = []
    for place, span in enumerate(spans(trace)):
        found.append(Sample(place, span.start - 1, levels.now()))
        count = max(LEAST, points * (span.end - span.start) // total)
        found += [Sample(place, *levels.highest(start, end)) for start, end in _buckets(span, count)]
    if found[-1].number != len(trace.events) - 1:
        found.append(Sample(found[-1].span, len(trace.events) - 1, levels.now()))
    return tuple(found)


def _buckets(span: Span, count: int) -> Iterator[tuple[int, int]]:
    """Equal parts of a span, of at least one event each."""
    length = span.end - span.start
    count = min(count, length)
    edges = [span.start + length * number // count for number in range(count + 1)] if count else []
    return pairwise(edges)


class _Levels:
    """Live bytes by owner while events go by."""

    def __init__(self, trace: Trace, handed_out: Sequence[int]) -> None:
        place = {owner: number for number, owner in enumerate(OWNERS)}
        self.events = trace.events
        self.sizes = handed_out or [block.bytes for block in trace.blocks]
        self.owners = [place[block.owner] for block in trace.blocks]
        self.live = [0] * len(OWNERS)

    def now(self) -> Memory:
        return Memory(*self.live)

    def highest(self, start: int, end: int) -> tuple[int, Memory]:
        """Run events ``start`` to ``end``; the one after which most is live, and what is."""
        live, sizes, owners = self.live, self.sizes, self.owners
        level, best, number, at = sum(live), -1, start, tuple(live)
        for index in range(start, end):
            event = self.events[index]
            if event >= 0:
                live[owners[event]] += sizes[event]
                level += sizes[event]
            else:
                live[owners[~event]] -= sizes[~event]
                level -= sizes[~event]
            if level > best:
                best, number, at = level, index, tuple(live)
        return number, Memory(*at)
