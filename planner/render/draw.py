"""Neutral tables as rich tables, and long lines folded so that a narrow terminal stays readable."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from types import MappingProxyType
from typing import Literal

from rich.box import Box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from planner.render.sheet import Cell, Sheet, narrowed, printable, widths

ColorSystem = Literal["auto", "standard", "256", "truecolor", "windows"]

STYLES: Mapping[str, str] = MappingProxyType(
    {
        "": "",
        "good": "bold green",
        "warn": "bold yellow",
        "bad": "bold red",
        "strong": "bold",
        "faint": "dim",
        "code": "dim",
    }
)
"""What a tone looks like."""

_LINES = Box("    \n    \n ── \n    \n ── \n    \n    \n    \n")
_ASCII_LINES = Box("    \n    \n -- \n    \n -- \n    \n    \n    \n", ascii=True)


def table_width(sheet: Sheet) -> int:
    """Characters that ``draw`` needs for the table without its indent."""
    return sum(widths(sheet)) + 2 * (len(sheet.columns) - 1)


def draw(
    sheet: Sheet, console: Console, *, indent: int = 2, last: tuple[Text, Sequence[Text]] | None = None
) -> Padding:
    """The table, indented; ``last`` is one more column of ready-made text."""
    sheet = sheet if last else narrowed(sheet, console.width)
    table = Table(
        box=_ASCII_LINES if console.options.ascii_only else _LINES,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="dim",
        border_style="dim",
    )
    for column in sheet.columns:
        justify = "right" if column.numeric else "left"
        table.add_column(column.head, justify=justify, no_wrap=not column.wraps, overflow="fold")  # type: ignore[arg-type]
    if last:
        table.add_column(last[0], no_wrap=True)
    for index, cells in enumerate(sheet.rows):
        if index in sheet.rules:
            table.add_section()
        extra = [last[1][index]] if last else []
        table.add_row(*(styled(cell) for cell in cells), *extra)
    return Padding(table, (0, 0, 0, indent), expand=False)


def styled(cell: Cell) -> Text:
    """A cell's text in its tone; never markup."""
    return Text(printable(cell.text), STYLES[cell.tone])


def pairs(rows: Iterable[tuple[Cell | Text, Cell | Text]], *, indent: int = 2) -> Padding:
    """Short label, long text: the text wraps beside its label, not below it."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in rows:
        grid.add_row(*(styled(part) if isinstance(part, Cell) else part for part in (label, text)))
    return Padding(grid, (0, 0, 0, indent), expand=False)


def fold(command: str, width: int, *, indent: int) -> str:
    r"""A command over several lines that a shell still reads as one.

    >>> print(fold("plan --model 70b --gpu 4090 --seq-len 512", 30, indent=2))
      plan --model 70b --gpu 4090 \
        --seq-len 512
    """
    lines, current = [], ""
    for piece in printable(command).replace(" --", "\n--").split("\n"):
        longer = f"{current} {piece}" if current else piece
        if current and len(longer) + 2 > width:
            lines.append(current + " \\")
            current = f"  {piece}"
        else:
            current = longer
    return "\n".join(" " * indent + line for line in [*lines, current])


@dataclass(frozen=True, slots=True)
class Screen:
    """What there is to draw on; ``color_system`` is rich's word, ``None`` for no escape codes at all."""

    width: int
    color_system: ColorSystem | None = None
    encoding: str = "utf-8"


class _Page(StringIO):
    """Text in memory that claims the encoding of the real screen."""

    encoding = "utf-8"


def on_screen(screen: Screen, show: Callable[[Console], None]) -> str:
    """What ``show`` prints, without the blanks that pad lines to the screen's width."""
    page = _Page()
    page.encoding = screen.encoding
    console = Console(
        file=page,
        width=screen.width,
        color_system=screen.color_system,
        force_terminal=screen.color_system is not None,
        highlight=False,
        markup=False,
        emoji=False,
        _environ={},
    )
    show(console)
    lines = page.getvalue().split("\n")
    return "\n".join(lines if screen.color_system else [line.rstrip() for line in lines])


def show_sheets(sheets: Iterable[Sheet], console: Console) -> None:
    """Tables one after the other, each under its title and above its notes."""
    for index, sheet in enumerate(sheets):
        if index:
            console.print()
        if sheet.title:
            console.print(Text(printable(sheet.title), STYLES["strong"]))
        console.print(draw(sheet, console))
        for note in sheet.notes:
            console.print(Padding(styled(Cell(note, "faint")), (0, 0, 0, 2), expand=False))


def show_page(title: str, parts: Iterable[tuple[str, str]], console: Console) -> None:
    """A title over paragraphs that stand beside their headings."""
    console.print(styled(Cell(title, "strong")))
    console.print(pairs([(Cell(heading, "faint"), Cell(text)) for heading, text in parts]))
