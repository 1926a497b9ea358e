"""A table before it has a look: what the terminal and Markdown renderers share."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Owner = Literal["weights", "adapters", "gradients", "optimizer", "activations", "logits", "temporaries", "context"]
Tone = Literal["", "good", "warn", "bad", "strong", "faint", "code"] | Owner


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


def printable(text: str) -> str:
    r"""``text`` with control characters made visible, since a name may come from anybody's file.

    >>> printable("a\x1b[31mb\n")
    'a\\x1b[31mb\\n'
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
