"""What a copied period of layers does: its steps in every sweep, held against those of its neighbours.

Derived here; ``depth.extend`` writes the copies.
"""

import re
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import NamedTuple

from planner.allocator.events import OUTSIDE, Block, Trace
from planner.allocator.sweeps import FEWEST_PERIODS, NO_SWEEP, Pattern, Piece, pieces

NUMBERED = re.compile(r"\.(\d+)(?=[.:])")
"""The first number in a module's path, which is that of its decoder layer."""


class NotPeriodic(Exception):
    """The layers of a trace do not repeat as its pattern says; every layer has to be traced."""


class Home(NamedTuple):
    """A block by its place: which sweep and layer allocated it, and how many that cell had allocated before."""

    sweep: int
    layer: int
    ordinal: int


Step = Block | Home
"""One event of a cell: the block that it allocates, or the home of the block that it releases."""

Cell = tuple[int, int]
"""Sweep and layer."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A trace, cut, with the home of every block by number and the piece of every cell."""

    trace: Trace
    pattern: Pattern
    cut: list[Piece]
    homes: list[Home]
    cells: dict[Cell, Piece]

    def steps(self, cell: Cell) -> list[Step]:
        """What happens in a cell, in order."""
        piece, blocks, homes = self.cells[cell], self.trace.blocks, self.homes
        events = self.trace.events[piece.start : piece.end]
        return [blocks[event] if event >= 0 else homes[~event] for event in events]

    def inside(self, cell: Cell) -> list[bool]:
        """For every event of a cell, whether it ran in the layer, not merely after it."""
        piece = self.cells[cell]
        return [layer != OUTSIDE for layer in self.trace.layers[piece.start : piece.end]]

    def born(self, cell: Cell) -> list[Block]:
        """The blocks that a cell allocates, with sites as seen from the layer."""
        return [_seen(step, cell[1]) for step in self.steps(cell) if isinstance(step, Block)]


def recording(trace: Trace, pattern: Pattern) -> Recording:
    """Cut a trace and find where its blocks are at home; those from between sweeps are counted through."""
    cut = pieces(trace, pattern)
    homes = [Home(NO_SWEEP, OUTSIDE, 0)] * len(trace.blocks)
    filled: dict[Cell, int] = {}
    for piece in cut:
        key = (piece.sweep, piece.layer)
        ordinal = filled.get(key, 0)
        for event in trace.events[piece.start : piece.end]:
            if event >= 0:
                homes[event] = Home(*key, ordinal)
                ordinal += 1
        filled[key] = ordinal
    cells = {(piece.sweep, piece.layer): piece for piece in cut if piece.sweep != NO_SWEEP}
    return Recording(trace, pattern, cut, homes, cells)


# ---------------------------------------------------------------- the copied period


def template(record: Recording) -> dict[Cell, list[Step]]:
    """The steps of the copied period in every sweep, or ``NotPeriodic``.

    References up are taken from the lower of two like periods, references down from the upper one: so each was recorded
    between the two, and what is special about the first and the last period leaves no trace in the copies.
    """
    pattern = record.pattern
    shift = pattern.period if pattern.periods > FEWEST_PERIODS else 0
    found: dict[Cell, list[Step]] = {}
    for sweep, layer in record.cells:
        if pattern.low <= layer < pattern.seam:
            _hold(record, (sweep, layer), shift)
            own = record.steps((sweep, layer))
            twin = _aligned(own, record.steps((sweep, layer + shift)), shift)
            found[sweep, layer] = [_between(pattern, *pair, layer, shift) for pair in zip(own, twin, strict=True)]
        elif pattern.seam <= layer < pattern.seam + shift and (sweep, layer - shift) not in record.cells:
            raise NotPeriodic(f"layer {layer} takes part where layer {layer - shift} does not")
    _balanced(record, found)
    return found


def _aligned(own: list[Step], twin: list[Step], shift: int) -> list[Step]:
    """The twin's steps, with releases in a row in the order of the own ones where they are the same releases."""
    found: list[Step] = []
    for group in _rows(own):
        there = twin[len(found) : len(found) + len(group)]
        moved = {step._replace(layer=step.layer - shift): step for step in there if isinstance(step, Home)}
        same = len(moved) == len(group) and all(home in moved for home in group)
        found += [moved[home] for home in group if isinstance(home, Home)] if same else there
    return found + twin[len(found) :]


def _rows(steps: list[Step]) -> list[list[Step]]:
    """Releases in a row, and allocations in a row."""
    return [list(group) for _, group in groupby(steps, key=lambda step: isinstance(step, Home))]


def _between(pattern: Pattern, own: Step, twin: Step, layer: int, shift: int) -> Step:
    """The step of a copy, as if it stood at ``layer``."""
    if isinstance(own, Home) and own.layer == OUTSIDE:
        raise NotPeriodic(f"layer {layer} releases a block from outside the layers, which its copies cannot")
    if isinstance(own, Home) and isinstance(twin, Home) and pattern.number(own.layer) < pattern.number(layer):
        return Home(twin.sweep, twin.layer - shift, twin.ordinal)
    return own


def _hold(record: Recording, cell: Cell, shift: int) -> None:
    """Refuse a cell of the copied period that differs from the like cells beside it."""
    sweep, layer = cell
    if shift:
        if not _alike(record, cell, (sweep, layer + shift)):
            raise NotPeriodic(f"layers {layer} and {layer + shift} differ")
        return
    period = record.pattern.period
    beside = [other for other in ((sweep, layer - period), (sweep, layer + period)) if other in record.cells]
    if not any(record.born(other) == record.born(cell) for other in beside):
        raise NotPeriodic(f"layer {layer} allocates like neither of its neighbours")


def _alike(record: Recording, cell: Cell, other: Cell) -> bool:
    """Whether two cells do the same, seen each from its own layer."""
    if other not in record.cells or record.inside(cell) != record.inside(other):
        return False
    one = record.steps(cell)
    two = _aligned(one, record.steps(other), other[1] - cell[1])
    if len(one) != len(two) or record.born(cell) != record.born(other):
        return False
    return all(_parallel(record.pattern, *pair, cell[1], other[1]) for pair in zip(one, two, strict=True))


def _parallel(pattern: Pattern, own: Step, twin: Step, layer: int, other: int) -> bool:
    """Whether two steps are of one kind and, as releases, point the same way.

    Ordinals must agree only where both were counted in the two like periods; elsewhere a special first or last layer
    may have counted otherwise.
    """
    if isinstance(own, Block) or isinstance(twin, Block):
        return isinstance(own, Block) and isinstance(twin, Block)
    if own.sweep != twin.sweep or own.layer == OUTSIDE or own.layer - layer != twin.layer - other:
        return False
    return own.ordinal == twin.ordinal or pattern.number(own.layer) != pattern.number(layer)


def _balanced(record: Recording, found: dict[Cell, list[Step]]) -> None:
    """Refuse a period whose copies would leave other blocks alive than the recorded one leaves.

    Whatever one period allocates and the trace releases, one period has to release.
    """
    released = {~event for event in record.trace.events if event < 0}
    homes = (record.homes[block] for block in released)
    gone = sum((home.sweep, home.layer) in found for home in homes)
    done = sum(isinstance(step, Home) for steps in found.values() for step in steps)
    if gone != done:
        raise NotPeriodic(f"a period releases {done} blocks, and {gone} of its own are released")


# ---------------------------------------------------------------- names


def at_layer(block: Block, layer: int) -> Block:
    """The same block one or more periods further on; its site follows when it names the layer.

    >>> at_layer(Block(8, "activations", "model.layers.2.mlp", 2), 7).site
    'model.layers.7.mlp'
    >>> at_layer(Block(8, "activations", "model.layers.2: aten.add", 2), 7).site
    'model.layers.7: aten.add'
    """
    size, owner, site, old = block
    return Block(size, owner, site if old == layer else _site(site, old, layer), layer)


def _seen(block: Block, layer: int) -> Block:
    """A block with layer 0 for its own, so that cells of different layers compare."""
    return at_layer(block, 0) if block.layer == layer else block


def _site(site: str, old: int, new: int) -> str:
    parts = _parts(site)
    if parts is None or parts[1] != old:
        return site
    return f"{parts[0]}{new}{parts[2]}"


@cache
def _parts(site: str) -> tuple[str, int, str] | None:
    """A site before, in and after the number of its layer."""
    match = NUMBERED.search(site)
    return (site[: match.start(1)], int(match[1]), site[match.end(1) :]) if match else None
