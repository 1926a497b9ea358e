"""A plan for a terminal of any width, with or without colour."""

from collections.abc import Mapping
from types import MappingProxyType

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from planner.render import bars, plan_text
from planner.render.draw import STYLES, draw, fold, pairs, table_width
from planner.render.sheet import Cell, Tone, printable, widths
from planner.result import Plan

GAP = 4
"""Blanks between two tables that stand beside each other."""
LEAST_BAR, MOST_BAR = 14, 60
"""Bars shorter than this stand on lines of their own; longer ones say no more."""


def show_plan(plan: Plan, console: Console) -> None:
    """Print the whole answer."""
    _head(plan, console)
    _verdicts(plan, console)
    _breakdowns(plan, console)
    _recommendation(plan, console)
    for group in plan_text.groups(plan):
        _ways(plan, group, console)
    _small_print(plan, console)


def _head(plan: Plan, console: Console) -> None:
    model, hardware, software = (printable(text) for text in plan_text.subject(plan))
    first = Text.assemble((model, "bold"), " on ", (hardware, "bold"))
    second = Text(f"{software}; {plan_text.evidence(plan)}", STYLES["faint"])
    together = Text.assemble(first, "  ", second)
    if together.cell_len <= console.width:
        console.print(together)
    else:
        console.print(first)
        console.print(second)
    console.print()


def _verdicts(plan: Plan, console: Console) -> None:
    headline = plan_text.headline(plan)
    console.print(Text(printable(headline.text), STYLES[headline.tone]))
    sheet = plan_text.verdicts(plan)
    room = console.width - 2 - table_width(sheet) - 3
    beside = room >= LEAST_BAR
    label = max(len(name) for name in plan_text.labels(plan))
    width = min(room if beside else console.width - label - 5, MOST_BAR)
    scale = bars.scale_for(plan.candidates, plan.cluster.usable_bytes, width)
    palette = bars.Palette(colour=console.color_system is not None, ascii_only=console.options.ascii_only)
    drawn = [bars.bar(candidate, scale, palette) for candidate in plan.candidates]
    if beside:
        console.print(draw(sheet, console, last=(bars.heading(scale), drawn)))
    else:
        console.print(draw(sheet, console))
        names = [Cell(""), *(cells[0] for cells in sheet.rows)]
        console.print(pairs(zip(names, [bars.heading(scale), *drawn], strict=True)))
    legend = bars.legend(bars.drawn(plan.candidates, scale), palette)
    console.print(Padding(legend, (0, 0, 0, 2), expand=False))
    console.print()


def _breakdowns(plan: Plan, console: Console) -> None:
    """Who takes the peak, and what each phase takes: beside each other where there is room."""
    owners, phases = plan_text.breakdown(plan), plan_text.phases(plan)
    if 2 + table_width(owners) + GAP + table_width(phases) <= console.width:
        both = Table.grid(padding=(0, GAP, 0, 0))
        both.add_row(draw(owners, console), draw(phases, console, indent=0))
        console.print(both)
    else:
        console.print(draw(owners, console))
        console.print()
        console.print(draw(phases, console))
    console.print()


def _recommendation(plan: Plan, console: Console) -> None:
    choice = plan_text.recommendation(plan)
    console.print(Text.assemble(("Recommended: ", "bold"), (printable(choice.text), STYLES[choice.tone])))
    rows = [
        (Cell(reason.code, _SEVERITY[reason.severity]), Cell(printable(reason.text)))
        for reason in plan.recommendation.reasons
    ]
    if rows:
        console.print(pairs(rows))
    console.print()


_SEVERITY: Mapping[str, Tone] = MappingProxyType({"info": "faint", "warning": "warn"})


def _ways(plan: Plan, group: plan_text.Group, console: Console) -> None:
    """Each way in one line of figures and words, and below it the command to run."""
    console.print(Text(group.heading, "bold"))
    sheet = plan_text.ways(plan, group)
    sizes = dict(zip((column.head for column in sheet.columns), widths(sheet), strict=True))
    for way, cells in zip(group.ways, sheet.rows, strict=True):
        change, verdict, needed, price, _ = cells
        figures = [verdict.text.ljust(sizes["verdict"]), f"{needed.text.rjust(sizes['GiB'])} GiB"]
        label = Text.assemble((figures[0], STYLES[verdict.tone]), "  ", (figures[1], "bold"))
        if any(cells[3].text for cells in sheet.rows):
            label.append(f"  {price.text.ljust(sizes['US$'])}")
        console.print(pairs([(label, change)]))
        command = Text(fold(way.command, console.width - 6, indent=6), STYLES["faint"])
        console.print(command, crop=False, no_wrap=True, overflow="ignore")
    console.print()


def _small_print(plan: Plan, console: Console) -> None:
    console.print(
        pairs([(Cell(who, "strong"), Cell(printable(text))) for who, text in plan_text.assumptions(plan)], indent=0)
    )
    if plan.notes:
        console.print()
        console.print(pairs([(Cell("note", "faint"), Cell(printable(note))) for note in plan.notes], indent=0))
