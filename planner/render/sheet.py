"""A table before it has a look: what the terminal and Markdown renderers share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Tone = Literal["", "good", "warn", "bad", "strong", "faint", "code"]


@dataclass(frozen=True, slots=True)
class Cell:
    """Text and what it means; the terminal turns meaning into colour."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading. ``optional`` columns are left out of a terminal that is too narrow for all."""

    head: str
    numeric: bool = False
    optional: bool = False
    wraps: bool = False
    """Long text that may take several lines; every other column keeps its words on one."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """Columns and rows under a title. ``rules`` are the rows above which a line is drawn."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    rules: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def row(cells: Iterable[str | Cell]) -> tuple[Cell, ...]:
    """Cells from plain text."""
    return tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in cells)


def widths(sheet: Sheet) -> list[int]:
    """Characters that the widest cell of each column takes."""
    return [
        max(len(column.head), *(len(cells[index].text) for cells in sheet.rows), 0)
        for index, column in enumerate(sheet.columns)
    ]


def select(sheet: Sheet, indices: Sequence[int]) -> Sheet:
    """The same sheet with only those columns."""
    return Sheet(
        title=sheet.title,
        columns=tuple(sheet.columns[index] for index in indices),
        rows=tuple(tuple(cells[index] for index in indices) for cells in sheet.rows),
        rules=sheet.rules,
        notes=sheet.notes,
    )


def narrowed(sheet: Sheet, width: int, *, gap: int = 2, indent: int = 2) -> Sheet:
    """The sheet without its last optional columns until the rest fits into ``width`` characters."""
    chosen = list(range(len(sheet.columns)))
    sizes = widths(sheet)
    while indent + sum(sizes[index] for index in chosen) + gap * (len(chosen) - 1) > width:
        droppable = [index for index in chosen if sheet.columns[index].optional]
        if not droppable:
            break
        chosen.remove(droppable[-1])
    return select(sheet, chosen)


def printable(text: str) -> str:
    r"""``text`` with control characters made visible, since a name may come from anybody's file.

    >>> printable("a\x1b[31mb\n")
    'a\\x1b[31mb\\n'
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
