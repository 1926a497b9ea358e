"""Where the decoder layers stand in a trace: sweeps over the layers, cells of one layer each, and what lies between.

A forward pass sweeps up (0, 1, 2, ...), a backward pass down, a foreach optimizer up once per operator. Derived here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from planner.allocator.events import OUTSIDE, Trace

NO_SWEEP = -1
"""Sweep number of events that belong to no layer's turn."""

FEWEST_PERIODS = 3
"""A first one that may be special, one to copy, a last one that may be special."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """``prefix`` leading layers, then periods of ``period`` layers; a partial one may end the model."""

    prefix: int
    period: int
    recorded: int
    layers: int

    @property
    def extra(self) -> int:
        """Layers to insert."""
        return self.layers - self.recorded

    @property
    def low(self) -> int:
        """First layer of the second period, the one that is copied."""
        return self.prefix + self.period

    @property
    def seam(self) -> int:
        """First layer above the copied period: copies go before it, and it moves up by ``extra``."""
        return self.low + self.period

    @property
    def periods(self) -> int:
        """Whole periods in the recording."""
        return (self.recorded - self.prefix) // self.period

    def number(self, layer: int) -> int:
        """Which period a layer is in; negative in the prefix."""
        return (layer - self.prefix) // self.period

    def moved(self, layer: int) -> int:
        """Where a recorded layer stands in the deeper model."""
        return layer + self.extra if layer >= self.seam else layer


class Piece(NamedTuple):
    """A half-open range of events: one layer's cell in one sweep, or, outside layers, a gap between sweeps."""

    start: int
    end: int
    layer: int = OUTSIDE
    sweep: int = NO_SWEEP


def settled(trace: Trace, pattern: Pattern) -> Trace:
    """The same trace, in which releases in a row, in no layer, of three periods or more go from layer to layer.

    Caches are emptied in the order of their hashes (autocast's is). What an allocator hands out and holds does not
    depend on the order of releases in a row: neighbours merge whichever goes first.
    """
    events = list(trace.events)
    owner = [block.layer for block in trace.blocks]
    for start, end in _releases(trace):
        layers = {owner[~event] for event in events[start:end]} - {OUTSIDE}
        if len({pattern.number(layer) for layer in layers}) >= FEWEST_PERIODS:
            events[start:end] = sorted(events[start:end], key=lambda event: owner[~event])
    return replace(trace, events=tuple(events))


def _releases(trace: Trace) -> Iterator[tuple[int, int]]:
    """Longest ranges of releases in no layer, within one phase."""
    marks = {mark.index for mark in trace.marks}
    start = 0
    for index, (event, layer) in enumerate(zip(trace.events, trace.layers, strict=True)):
        if index in marks and index > start:
            yield start, index
            start = index
        if event >= 0 or layer != OUTSIDE:
            if index > start:
                yield start, index
            start = index + 1
    if len(trace.events) > start:
        yield start, len(trace.events)


def pieces(trace: Trace, pattern: Pattern) -> list[Piece]:
    """The whole trace, cut. Sweeps never cross a mark; what runs in no layer belongs to the turn before it.

    Between sweeps, events in no layer that go through the blocks of three periods or more (``zero_grad`` does) are
    themselves a sweep over the blocks' layers.
    """
    found: list[Piece] = []
    sweep = 0
    for group in _groups(trace, pattern):
        if group[0].layer == OUTSIDE:
            found += group
        else:
            found += [piece._replace(sweep=sweep) for piece in group]
            sweep += 1
    return found


def _groups(trace: Trace, pattern: Pattern) -> Iterator[list[Piece]]:
    """Cells of one sweep, or one gap, at a time."""
    owners = [trace.blocks[event if event >= 0 else ~event].layer for event in trace.events]
    edges = sorted({0, len(trace.events), *(mark.index for mark in trace.marks)})
    for start, end in pairwise(edges):
        for group in _cut(trace.layers, start, end):
            if group[0].layer == OUTSIDE:
                yield from _bulk(owners, group[0], pattern)
            else:
                yield group


def _bulk(owners: list[int], gap: Piece, pattern: Pattern) -> Iterator[list[Piece]]:
    """A gap, cut where it sweeps over the blocks of three periods or more."""
    place = gap.start
    for group in _cut(owners, gap.start, gap.end):
        if len({pattern.number(piece.layer) for piece in group}) < FEWEST_PERIODS:
            continue
        if group[0].start > place:
            yield [Piece(place, group[0].start)]
        yield group
        place = group[-1].end
    if gap.end > place:
        yield [Piece(place, gap.end)]


def _cut(layers: Sequence[int], start: int, end: int) -> Iterator[list[Piece]]:
    """Cells of every sweep in a range, and the gaps around them, in order."""
    place = start
    for runs in _sweeps(_runs(layers, start, end)):
        if runs[0].start > place:
            yield [Piece(place, runs[0].start)]
        yield list(_cells(runs))
        place = runs[-1].end
    if end > place:
        yield [Piece(place, end)]


def _runs(layers: Sequence[int], start: int, end: int) -> Iterator[Piece]:
    """Longest ranges of one layer number, those of no layer left out."""
    begin = start
    for index in range(start + 1, end + 1):
        if index == end or layers[index] != layers[begin]:
            if layers[begin] != OUTSIDE:
                yield Piece(begin, index, layers[begin])
            begin = index


def _sweeps(runs: Iterator[Piece]) -> Iterator[list[Piece]]:
    """Runs in groups whose layers only rise or only fall."""
    group: list[Piece] = []
    rising: bool | None = None
    for run in runs:
        if group and run.layer != group[-1].layer:
            step = run.layer > group[-1].layer
            if rising is not None and step != rising:
                over = _overhang(group)
                yield group[: len(group) - over]
                group, rising = group[len(group) - over :], step if over else None
            else:
                rising = step
        group.append(run)
    if group:
        yield group


def _overhang(group: list[Piece]) -> int:
    """How many runs at the end of a group open the next one: in 3, 0, 1, 2, 3 the sweep begins at 0.

    Where a sweep turns back at once, as in 0, 1, 2, 2, 1, 0, its last layer has as many runs as the one before it.
    """
    last = group[-1].layer
    trailing = sum(run.layer == last for run in group)
    if len({run.layer for run in group}) <= 2:
        return trailing
    before = next(run.layer for run in reversed(group) if run.layer != last)
    return max(trailing - sum(run.layer == before for run in group), 0)


def _cells(runs: list[Piece]) -> Iterator[Piece]:
    """One cell per layer: from its first run to the first run of the next layer."""
    first = runs[0]
    for run in runs[1:]:
        if run.layer != first.layer:
            yield Piece(first.start, run.start, first.layer)
            first = run
    yield Piece(first.start, runs[-1].end, first.layer)
