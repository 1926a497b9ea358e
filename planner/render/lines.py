"""Tables and paragraphs as lines for a screen of a given width.

A line is a tuple of cells, so that drawing needs no terminal library; ``paint`` turns meaning into
colour where the screen has any.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from textwrap import wrap
from unicodedata import east_asian_width

from planner.render.sheet import Cell, Column, Sheet, Tone, printable

Line = tuple[Cell, ...]

GAP = 2
"""Blanks between columns."""
INDENT = 2
LEAST = 6
"""No column that may wrap becomes narrower."""
LEAST_BESIDE = 12
"""Columns that text beside a label takes at least."""
EMPTY: Line = ()


@dataclass(frozen=True, slots=True)
class Screen:
    """What there is to draw on."""

    width: int = 80
    colour: bool = False
    ascii_only: bool = False


_ASCII = str.maketrans({"–": "-", "×": "x", "─": "-", "…": ".", "\u00a0": " ", "±": "+", "≥": ">"})
_WIDER = {" ±": "+-", " ≥": ">="}
"""What takes two characters takes the blank before it, so that columns stay."""


def plain(lines: Iterable[Line], screen: Screen) -> str:
    """Lines as text without any escape code."""
    text = "\n".join("".join(printable(cell.text) for cell in line).rstrip() for line in lines) + "\n"
    return in_ascii(text) if screen.ascii_only else text


def in_ascii(text: str) -> str:
    """Our own characters in those that every terminal has; each line is as long as before.

    >>> in_ascii("2 × 4 – 8  ±")
    '2 x 4 - 8 +-'
    """
    for wide, narrow in _WIDER.items():
        text = text.replace(wide, narrow)
    return text.translate(_ASCII)


# ---------------------------------------------------------------- width


def size(text: str) -> int:
    """Columns that ``text`` takes on a screen.

    >>> size("GiB"), size("模型")
    (3, 4)
    """
    if text.isascii():
        return len(text)
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def length(line: Line) -> int:
    """Columns that a line takes."""
    return sum(size(cell.text) for cell in line)


def padded(line: Line, width: int, *, right: bool = False) -> Line:
    """``line`` with blanks up to ``width``, on its left when ``right`` is set."""
    blanks = Cell(" " * max(width - length(line), 0))
    return (blanks, *line) if right else (*line, blanks)


def indented(lines: Iterable[Line], indent: int = INDENT) -> list[Line]:
    """Lines further to the right."""
    return [(Cell(" " * indent), *line) for line in lines]


# ---------------------------------------------------------------- tables


def table(sheet: Sheet, width: int, *, last: Sequence[Line] = ()) -> list[Line]:
    """Heading, a line, the rows; where no wrapping makes them fit ``width``, each row by itself.

    ``last`` is one more column of ready-made lines, its heading first.
    """
    sizes = fitted(sheet, width)
    if not last and sum(sizes) + GAP * (len(sizes) - 1) > width:
        return entries(sheet, width)
    lines = _row([Cell(column.head, "faint") for column in sheet.columns], sheet.columns, sizes)
    marks = [len(lines)]
    for index, cells in enumerate(sheet.rows):
        if index in sheet.rules and index:
            marks.append(len(lines))
        lines.extend(_row(cells, sheet.columns, sizes))
    if last:
        lines = [(*padded(line, sum(sizes) + GAP * len(sizes)), *more) for line, more in zip(lines, last, strict=True)]
    across: Line = (Cell("─" * max(length(line) for line in lines), "faint"),)
    for mark in reversed(marks):
        lines.insert(mark, across)
    return lines


def entries(sheet: Sheet, width: int) -> list[Line]:
    """Every row as its first cell over the others, each beside its heading: for columns that no screen holds."""
    found: list[Line] = []
    for cells in sheet.rows:
        found.extend(wrapped(cells[0], width))
        others = [
            ((Cell(column.head, "faint"),), replace(cell, text=cell.text.strip()))
            for column, cell in zip(sheet.columns[1:], cells[1:], strict=True)
            if cell.text.strip()
        ]
        found.extend(indented(pairs(others, width - INDENT)))
    return found


def table_width(sheet: Sheet) -> int:
    """Columns that the table takes when nothing wraps."""
    return sum(_natural(sheet)) + GAP * (len(sheet.columns) - 1)


def _natural(sheet: Sheet) -> list[int]:
    return [
        max(size(column.head), *(size(cells[index].text) for cells in sheet.rows), 0)
        for index, column in enumerate(sheet.columns)
    ]


def fitted(sheet: Sheet, width: int) -> list[int]:
    """Widths of the columns: what they hold, less what has to wrap, the widest first; words of headings stay whole."""
    sizes = _natural(sheet)
    least = [max(LEAST, *map(len, column.head.split() or [""])) for column in sheet.columns]
    excess = sum(sizes) + GAP * (len(sizes) - 1) - width
    order = [index for index, column in enumerate(sheet.columns) if column.wraps]
    others = [index for index, column in enumerate(sheet.columns) if not column.wraps and not column.numeric]
    for group in (order, others):
        while excess > 0 and (shrinking := [index for index in group if sizes[index] > least[index]]):
            widest = max(shrinking, key=lambda index: sizes[index])
            sizes[widest] -= 1
            excess -= 1
    return sizes


def narrowed(sheet: Sheet, width: int) -> Sheet:
    """The sheet without its last optional columns until the rest fits, or none of them is left."""
    chosen = list(range(len(sheet.columns)))
    sizes = _natural(sheet)
    while sum(sizes[index] for index in chosen) + GAP * (len(chosen) - 1) > width:
        droppable = [index for index in chosen if sheet.columns[index].optional]
        if not droppable:
            break
        chosen.remove(droppable[-1])
    columns = tuple(sheet.columns[index] for index in chosen)
    rows = tuple(tuple(cells[index] for index in chosen) for cells in sheet.rows)
    return replace(sheet, columns=columns, rows=rows)


def _row(cells: Sequence[Cell], columns: Sequence[Column], sizes: Sequence[int]) -> list[Line]:
    """One row over as many lines as its longest cell takes."""
    stacks = [wrapped(cell, width) for cell, width in zip(cells, sizes, strict=True)]
    return [_joined(level, columns, sizes) for level in zip_longest(*stacks, fillvalue=EMPTY)]


def _joined(parts: Sequence[Line], columns: Sequence[Column], sizes: Sequence[int]) -> Line:
    found: list[Cell] = []
    for index, (part, column, width) in enumerate(zip(parts, columns, sizes, strict=True)):
        if index:
            found.append(Cell(" " * GAP))
        found.extend(padded(part, width, right=column.numeric))
    return tuple(found)


def wrapped(cell: Cell, width: int) -> list[Line]:
    """A cell over several lines; what begins with blanks goes on further to the right."""
    if size(cell.text) <= width:
        return [(cell,)]
    text = printable(cell.text)
    blanks = len(text) - len(text.lstrip())
    further = " " * (blanks + INDENT) if blanks else ""
    room = max(width - len(further), 1)
    text = re.sub(r"\S+", lambda word: " ".join(_parts(word[0], room)), text)
    pieces = wrap(text, max(width, 1), break_on_hyphens=False, subsequent_indent=further)
    return [(Cell(piece, cell.tone),) for piece in pieces]


def _parts(word: str, width: int) -> Iterator[str]:
    """A word that no line holds, divided behind what parts names: ``gradient_accumulation_`` and ``steps``."""
    while len(word) > width:
        cut = max(word.rfind(mark, 0, width) for mark in "_./,") + 1 or width
        yield word[:cut]
        word = word[cut:]
    yield word


# ---------------------------------------------------------------- paragraphs


def paragraph(text: str, width: int, tone: Tone = "") -> list[Line]:
    """Text over as many lines as it takes."""
    return wrapped(Cell(text, tone), width)


def pairs(rows: Sequence[tuple[Line, Cell]], width: int, *, gap: int = GAP) -> list[Line]:
    """Short label, long text: the text wraps beside its label, and below it only where no room is left there."""
    margin = max((length(label) for label, _ in rows), default=0)
    found: list[Line] = []
    for label, text in rows:
        if margin and width - margin - gap < LEAST_BESIDE:
            found.extend((label, *indented(wrapped(text, width - INDENT))))
            continue
        for index, line in enumerate(wrapped(text, max(width - margin - gap, LEAST))):
            found.append((*padded(label if index == 0 else EMPTY, margin + gap), *line))
    return found


def beside(left: Sequence[Line], right: Sequence[Line], gap: int) -> list[Line]:
    """Two blocks next to each other."""
    margin = max(map(length, left)) + gap
    return [(*padded(one, margin), *other) for one, other in zip_longest(left, right, fillvalue=EMPTY)]


def fold(command: str, width: int) -> list[str]:
    r"""A command over several lines that a shell still reads as one; a value that no line holds stays whole.

    >>> print("\n".join(fold("plan --model 70b --gpu 4090 --seq-len 512", 30)))
    plan --model 70b --gpu 4090 \
      --seq-len 512
    >>> print("\n".join(fold("plan --dataset 'a long name.jsonl'", 20)))
    plan --dataset \
      'a long name.jsonl'
    """
    lines, current = [], ""
    for piece in _pieces(command, width):
        longer = f"{current} {piece}" if current else piece
        if current and len(longer) + 2 > width:
            lines.append(current + " \\")
            current = f"  {piece}"
        else:
            current = longer
    return [*lines, current]


def _pieces(command: str, width: int) -> Iterator[str]:
    """Options with their values; of what is too long for a line each word, unless it may be quoted."""
    for piece in printable(command).replace(" --", "\n--").split("\n"):
        flag, blank, value = piece.partition(" ")
        if len(piece) + INDENT + 2 <= width:
            yield piece
        elif piece.startswith("--") and blank:
            yield from (flag, value)
        elif not set("'\"\\") & set(piece):
            yield from piece.split(" ")
        else:
            yield piece
