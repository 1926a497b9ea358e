"""A trace recorded with a few decoder layers, extended to the depth of the whole model.

Every period of layers does the same, so the second one is copied as often as needed: its events in every sweep, with
what they release shifted along. Exact, not an extrapolation: the result equals a trace of all layers. Derived here.
"""

from collections.abc import Sequence

from planner.allocator.events import OUTSIDE, Block, Mark, Trace
from planner.allocator.sweeps import FEWEST_PERIODS, NO_SWEEP, Pattern, Piece, settled
from planner.allocator.template import Cell, Home, NotPeriodic, Recording, at_layer, recording, template

__all__ = ["RECORDED_PERIODS", "NotPeriodic", "extend", "recording_depth"]

RECORDED_PERIODS = 4
"""Periods to record: a first and a last one that may be special, and two to hold against each other."""


def recording_depth(layers: int, *, period: int = 1, prefix: int = 0, periods: int = RECORDED_PERIODS) -> int:
    """How many layers to trace so that ``extend`` reaches ``layers``.

    A partial period at the end is recorded as such, behind the whole ones.

    >>> recording_depth(32), recording_depth(3), recording_depth(61, prefix=3)
    (4, 3, 7)
    >>> recording_depth(34, period=6)
    28
    """
    return min(layers, prefix + periods * period + (layers - prefix) % period)


def extend(trace: Trace, layers: int, *, period: int = 1, prefix: int = 0) -> Trace:
    """The trace that a model of ``layers`` layers would have left; blocks numbered as they are allocated.

    ``period`` layers repeat after ``prefix`` leading ones. At least three whole periods must be recorded, behind them
    the partial period that the whole model ends in, if it does. With four or more, the second and third must do the
    same in every sweep, and copies go between them; with three, the second must allocate what a neighbour allocates,
    and what it releases is taken on trust. ``NotPeriodic`` where that fails or a copy would release what lives no more.
    """
    pattern = _pattern(trace, layers, period, prefix)
    if pattern.extra == 0:
        return trace
    try:
        return _extended(trace, pattern)
    except NotPeriodic:
        return _extended(settled(trace, pattern), pattern)


def _extended(trace: Trace, pattern: Pattern) -> Trace:
    try:
        return _Writer(recording(trace, pattern)).written()
    except (KeyError, IndexError) as error:
        raise NotPeriodic("a copied layer would release a block that nobody allocates") from error


def _pattern(trace: Trace, layers: int, period: int, prefix: int) -> Pattern:
    recorded = 1 + max((*trace.layers, *(block.layer for block in trace.blocks)), default=OUTSIDE)
    pattern = Pattern(prefix, period, recorded, layers)
    if pattern.extra < 0 or pattern.extra % period:
        raise ValueError(f"{recorded} recorded layers cannot become {layers} by whole periods of {period}")
    if pattern.extra and pattern.periods < FEWEST_PERIODS:
        raise ValueError(
            f"{recorded} layers hold {pattern.periods} periods of {period} behind {prefix}; record 3 or more"
        )
    return pattern


class _Writer:
    """Writes the deeper trace piece by piece; ``ids`` are the new numbers of blocks by sweep, layer and ordinal."""

    def __init__(self, record: Recording) -> None:
        self.record, self.pattern = record, record.pattern
        self.steps = template(record)
        self.blocks: list[Block] = []
        self.events: list[int] = []
        self.layers: list[int] = []
        self.ids: dict[Cell, list[int]] = {}
        self.starts: dict[int, int] = {}
        self.above = False

    def written(self) -> Trace:
        """The whole of it."""
        before, after = _turns(self.record)
        for piece in self.record.cut:
            self.starts[piece.start] = len(self.events)
            self._copies(before.get(piece.start, ()))
            self._keep(piece)
            self._copies(after.get(piece.start, ()))
        released = [event for event in self.events if event < 0]
        if len(set(released)) < len(released):
            raise NotPeriodic("a copied layer would release a block twice")
        return Trace(tuple(self.blocks), tuple(self.events), tuple(self.layers), self._marks())

    def _marks(self) -> tuple[Mark, ...]:
        end = len(self.events)
        return tuple(mark._replace(index=self.starts.get(mark.index, end)) for mark in self.record.trace.marks)

    def _keep(self, piece: Piece) -> None:
        """A recorded piece, moved up when it lies above the copies."""
        trace, moved = self.record.trace, self.pattern.moved
        if piece.sweep != NO_SWEEP:
            self.above = piece.layer >= self.pattern.seam
        born = self.ids.setdefault((piece.sweep, moved(piece.layer)), [])
        for event in trace.events[piece.start : piece.end]:
            if event >= 0:
                block = trace.blocks[event]
                self._allocate(at_layer(block, moved(block.layer)), born)
            else:
                home = self.record.homes[~event]
                self.events.append(~self.ids[home.sweep, self._target(piece, home)][home.ordinal])
        self.layers += map(moved, trace.layers[piece.start : piece.end])

    def _target(self, piece: Piece, home: Home) -> int:
        """The layer that holds, in the deeper model, the block that a recorded piece releases.

        The copied period's blocks pass to the last copy for those who look from above, and stay for others.
        """
        low, seam, layer = self.pattern.low, self.pattern.seam, home.layer
        if low <= piece.layer < seam or layer < low:
            return layer
        if layer >= seam:
            return self.pattern.moved(layer)
        above = self.above if piece.sweep == NO_SWEEP else piece.layer >= seam
        return layer + self.pattern.extra if above else layer

    def _copies(self, cells: Sequence[tuple[Cell, int]]) -> None:
        for cell, shift in cells:
            self._copy(cell, shift)

    def _copy(self, cell: Cell, shift: int) -> None:
        """One cell of the copied period, ``shift`` layers further up."""
        sweep, layer = cell
        born = self.ids.setdefault((sweep, layer + shift), [])
        piece = self.record.cells[cell]
        for step in self.steps[cell]:
            if isinstance(step, Block):
                self._allocate(at_layer(step, step.layer + shift) if step.layer >= 0 else step, born)
            else:
                self.events.append(~self.ids[step.sweep, step.layer + shift][step.ordinal])
        recorded = self.record.trace.layers[piece.start : piece.end]
        self.layers += [number if number == OUTSIDE else number + shift for number in recorded]

    def _allocate(self, block: Block, born: list[int]) -> None:
        number = len(self.blocks)
        self.blocks.append(block)
        self.events.append(number)
        born.append(number)


Turns = dict[int, list[tuple[Cell, int]]]


def _turns(record: Recording) -> tuple[Turns, Turns]:
    """By the start of a recorded cell: which copies are written before it, and which after.

    In a rising sweep they follow the copied period, the lowest first; in a falling one they precede it, the highest
    first.
    """
    before: Turns = {}
    after: Turns = {}
    sweeps: dict[int, list[Piece]] = {}
    for piece in record.cells.values():
        sweeps.setdefault(piece.sweep, []).append(piece)
    low, seam, extra, period = record.pattern.low, record.pattern.seam, record.pattern.extra, record.pattern.period
    for pieces in sweeps.values():
        own = [piece for piece in pieces if low <= piece.layer < seam]
        shifts = range(period, extra + 1, period)
        if own and pieces[0].layer < pieces[-1].layer:
            after[own[-1].start] = [((piece.sweep, piece.layer), shift) for shift in shifts for piece in own]
        elif own:
            before[own[0].start] = [((piece.sweep, piece.layer), shift) for shift in shifts[::-1] for piece in own]
    return before, after
