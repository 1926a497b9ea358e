"""How far a card goes, as tables side by side where there is room, and for scripts."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, cast

from planner.render import words
from planner.render.explore_document import CellDocument, FrontierDocument, LaneDocument
from planner.render.lines import EMPTY, INDENT, Line, Screen, beside, indented, paragraph, table, table_width
from planner.render.sheet import Cell, Column, Sheet, row

if TYPE_CHECKING:
    from planner.recommend.frontier import Cell as Entry
    from planner.recommend.frontier import Frontier, Lane

APART = 4
"""Blanks between the two tables."""
NOTHING = Cell("–", "faint")
KEPT = "kept"
"""Heads a column without checkpointing, beside that of its method."""


def frontier_sheets(found: "Frontier") -> list[Sheet]:
    """Micro-batches, then tokens per second; what each lane needs where nothing fits at all."""
    lanes = shown(found)
    if not lanes:
        columns = (Column("method"), Column("needs GiB", numeric=True))
        return [Sheet(f"Nothing fits: {least(found)}", columns, tuple(_needs(found)), notes=found.notes)]
    batches = Sheet(title(found), _columns(lanes), (*_rows(found, lanes, batch), _longest(lanes)), (len(cut(found)),))
    paces = Sheet("Tokens per second of these", _columns(lanes), tuple(_rows(found, lanes, pace)))
    notes = (*_notes(found, lanes), *found.notes)
    if all(cell.text == NOTHING.text for cells in paces.rows for cell in cells[1:]):
        return [replace(batches, notes=("tokens per second: no rate of this card is known", *notes))]
    return [batches, replace(paces, notes=notes)]


def frontier_lines(found: "Frontier", screen: Screen) -> list[Line]:
    """Both tables beside each other where there is room, else one below the other; then what is to be said of them."""
    sheets = frontier_sheets(found)
    room = screen.width - INDENT
    first, *others = [table(sheet, room) for sheet in sheets]
    if others:
        second = [*paragraph(sheets[1].title, room, "strong"), *others[0]]
        aside = sum(map(table_width, sheets)) + APART <= room
        first = beside([EMPTY, *first], second, APART) if aside else [*first, EMPTY, *second]
    notes = [line for note in sheets[-1].notes for line in paragraph(note, room, "faint")]
    return [*paragraph(sheets[0].title, screen.width, "strong"), *indented([*first, EMPTY, *notes])]


def least(found: "Frontier") -> str:
    """What is shown where nothing fits."""
    what = f"{found.model.name} on {words.cards(found.cluster)}, {words.usable(found.cluster)} GiB usable"
    return f"one sequence of {found.lengths[0]} tokens, {what}, {found.stack}"


def title(found: "Frontier") -> str:
    """What is shown."""
    what = f"{found.model.name} on {words.cards(found.cluster)}"
    return f"Largest micro-batch of {what}, {words.usable(found.cluster)} GiB usable, {found.stack}"


def shown(found: "Frontier") -> tuple["Lane", ...]:
    """Lanes in which anything fits."""
    return tuple(lane for lane in found.lanes if lane.longest_tight)


def cut(found: "Frontier") -> tuple[int, ...]:
    """Lengths up to the first at which nothing fits."""
    going = [any(lane.cells[place].tight for lane in found.lanes) for place in range(len(found.lengths))]
    last = max((place for place, any_fits in enumerate(going) if any_fits), default=-1)
    return found.lengths[: last + 2]


def batch(entry: "Entry") -> Cell:
    """The micro-batch that fits, green; in brackets one that fits without its margin only."""
    return _judged(entry.fits, entry.tight)


def pace(entry: "Entry") -> Cell:
    """Tokens per second of that micro-batch."""
    return NOTHING if entry.tokens_per_second is None else Cell(f"{entry.tokens_per_second:,.0f}")


def _judged(fits: int, tight: int) -> Cell:
    if fits:
        return Cell(f"{fits:,}", "good")
    return Cell(f"({tight:,})", "warn") if tight else NOTHING


def _columns(lanes: tuple["Lane", ...]) -> tuple[Column, ...]:
    return (Column("seq-len", numeric=True), *(Column(_head(lane, lanes), numeric=True) for lane in lanes))


def _head(lane: "Lane", lanes: tuple["Lane", ...]) -> str:
    alone = sum(other.method == lane.method for other in lanes) == 1
    if lane.checkpointing:
        return lane.method
    return f"{lane.method} {KEPT}" if alone else KEPT


def _rows(found: "Frontier", lanes: tuple["Lane", ...], cell: Callable[["Entry"], Cell]) -> Iterator[tuple[Cell, ...]]:
    for place, seq_len in enumerate(cut(found)):
        yield row((f"{seq_len:,}", *(cell(lane.cells[place]) for lane in lanes)))


def _longest(lanes: tuple["Lane", ...]) -> tuple[Cell, ...]:
    return row((Cell("longest", "strong"), *(_judged(lane.longest_fits, lane.longest_tight) for lane in lanes)))


def _notes(found: "Frontier", lanes: tuple["Lane", ...]) -> Iterator[str]:
    bounded = found.model.max_position_embeddings is not None
    yield f"longest: tokens of one sequence, of {found.limit:,} {'positions' if bounded else 'that are looked at'}"
    if any(not lane.longest_fits or any(cell.tight and not cell.fits for cell in lane.cells) for lane in lanes):
        yield "(n): fits by the best estimate, not by its upper bound"
    if any(not lane.checkpointing for lane in lanes):
        yield f"{KEPT}: activations kept, --no-gradient-checkpointing"
    yield from _absent(found)


def _absent(found: "Frontier") -> Iterator[str]:
    for method in dict.fromkeys(lane.method for lane in found.lanes):
        lanes = [lane for lane in found.lanes if lane.method == method]
        if not any(lane.longest_tight for lane in lanes):
            least = min(lane.least_bytes for lane in lanes)
            yield f"{method}: nothing fits; one sequence of {found.lengths[0]} tokens needs {words.gib(least)} GiB"
    for method, why in found.missing:
        yield f"{method} is left out: {why}"


def _needs(found: "Frontier") -> Iterator[tuple[Cell, ...]]:
    for lane in found.lanes:
        name = lane.method if lane.checkpointing else f"{lane.method} {KEPT}"
        yield row((name, Cell(words.gib(lane.least_bytes), "bad")))


def frontier_document(found: "Frontier") -> FrontierDocument:
    """The same for scripts."""
    return {
        "schema": 1,
        "model": found.model.name,
        "gpu": found.cluster.gpu.id,
        "gpus": found.cluster.world_size,
        "usable_bytes": found.cluster.usable_bytes,
        "stack": found.stack,
        "positions": found.limit,
        "lanes": [_lane(lane) for lane in found.lanes],
        "missing": [{"method": method, "reason": why} for method, why in found.missing],
        "notes": list(found.notes),
    }


def _lane(lane: "Lane") -> LaneDocument:
    return {
        "method": lane.method,
        "gradient_checkpointing": lane.checkpointing,
        "cells": [cast("CellDocument", asdict(cell)) for cell in lane.cells],
        "longest": {"fits": lane.longest_fits, "tight": lane.longest_tight},
        "least_bytes": lane.least_bytes,
    }
