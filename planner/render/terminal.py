"""A plan for a terminal of any width, with or without colour."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from planner.render import bars, plan_text, time_text
from planner.render.lines import (
    EMPTY,
    GAP,
    INDENT,
    Line,
    Screen,
    beside,
    fold,
    indented,
    length,
    narrowed,
    pairs,
    paragraph,
    size,
    table,
    table_width,
)
from planner.render.sheet import Cell, Sheet, Tone
from planner.result import Plan

APART = 4
"""Blanks between two tables that stand beside each other."""
LEAST_BAR, MOST_BAR = 14, 60
"""Bars shorter than this stand on lines of their own; longer ones say no more."""


def plan_lines(plan: Plan, screen: Screen) -> list[Line]:
    """The whole answer."""
    sections = [
        _head(plan, screen),
        _verdicts(plan, screen),
        _breakdowns(plan, screen),
        _times(plan, screen),
        _recommendation(plan, screen),
        _alternatives(plan, screen),
        _thresholds(plan, screen),
        *(_ways(plan, group, screen) for group in plan_text.groups(plan)),
        _assumptions(plan, screen),
        _notes(plan, screen),
    ]
    return _apart([section for section in sections if section])


def sheets_lines(sheets: Sequence[Sheet], screen: Screen) -> list[Line]:
    """Tables one after the other, each under its title and above its notes."""
    return _apart([_sheet(sheet, screen) for sheet in sheets])


def page_lines(title: str, parts: Sequence[tuple[str, str]], screen: Screen) -> list[Line]:
    """A title over paragraphs that stand beside their headings."""
    rows = [((Cell(heading, "faint"),), Cell(text)) for heading, text in parts]
    return [*paragraph(title, screen.width, "strong"), *indented(pairs(rows, screen.width - INDENT))]


def _apart(sections: Sequence[Sequence[Line]]) -> list[Line]:
    found: list[Line] = []
    for section in sections:
        found.extend([EMPTY, *section] if found else section)
    return found


def _sheet(sheet: Sheet, screen: Screen) -> list[Line]:
    room = screen.width - INDENT
    title = paragraph(sheet.title, screen.width, "strong") if sheet.title else []
    notes = [line for note in sheet.notes for line in paragraph(note, room, "faint")]
    rows = table(narrowed(sheet, room), room) if sheet.rows or not sheet.notes else []
    return [*title, *indented(rows), *indented(notes)]


def _head(plan: Plan, screen: Screen) -> list[Line]:
    model, hardware, software = plan_text.subject(plan)
    first: Line = (Cell(model, "strong"), Cell(" on "), Cell(hardware, "strong"))
    second = f"{software}; {plan_text.evidence(plan)}"
    about = plan_text.data(plan)
    data = paragraph(f"on {about}", screen.width) if about else []
    if length(first) + GAP + size(second) <= screen.width:
        return [(*first, Cell(" " * GAP), Cell(second, "faint")), *data]
    fits = length(first) <= screen.width
    top = [first] if fits else [*paragraph(model, screen.width, "strong"), *paragraph(hardware, screen.width, "strong")]
    return [*top, *paragraph(second, screen.width, "faint"), *data]


def _verdicts(plan: Plan, screen: Screen) -> list[Line]:
    sheet, headline = plan_text.verdicts(plan), plan_text.headline(plan)
    room = screen.width - INDENT - table_width(sheet) - GAP - 1
    margin = max(map(size, plan_text.labels(plan))) + GAP
    width = room if room >= LEAST_BAR else screen.width - INDENT - margin - 1
    scale = bars.scale_for(plan.candidates, plan.cluster.usable_bytes, min(width, MOST_BAR))
    drawn = [bars.heading(scale), *(bars.bar(candidate, scale, screen) for candidate in plan.candidates)]
    if room >= LEAST_BAR:
        body = table(sheet, screen.width, last=drawn)
    else:
        names = [EMPTY, *((cells[0],) for cells in sheet.rows)]
        labels = [(*name, Cell(" " * (margin - length(name)))) for name in names]
        body = [
            *table(sheet, screen.width - INDENT),
            *((*label, *bar) for label, bar in zip(labels, drawn, strict=True)),
        ]
    legend = bars.legend(plan.candidates, scale, screen)
    return [*paragraph(headline.text, screen.width, headline.tone), *indented([*body, *legend])]


def _breakdowns(plan: Plan, screen: Screen) -> list[Line]:
    """Who takes the peak, and what each phase takes: beside each other where there is room."""
    owners, phases = plan_text.breakdown(plan), plan_text.phases(plan)
    room = screen.width - INDENT
    left, right = table(owners, room), table(phases, room)
    if table_width(owners) + APART + table_width(phases) <= room:
        return indented(beside(left, right, APART))
    return indented([*left, EMPTY, *right])


_SEVERITY: Mapping[str, Tone] = MappingProxyType({"info": "faint", "warning": "warn"})


def _recommendation(plan: Plan, screen: Screen) -> list[Line]:
    choice = plan_text.recommendation(plan)
    reasons = [
        ((Cell(reason.code, _SEVERITY[reason.severity]),), Cell(reason.text)) for reason in plan.recommendation.reasons
    ]
    said = pairs([((Cell("Recommended:", "strong"),), choice)], screen.width, gap=1)
    start = time_text.start(plan)
    recipe = pairs([((Cell("start with", "faint"),), Cell(start))], screen.width - INDENT) if start else []
    return [
        *said,
        *indented(pairs(reasons, screen.width - INDENT)),
        *indented(recipe),
        *_command(plan.recommendation.command or "", screen),
    ]


def _command(command: str, screen: Screen) -> list[Line]:
    """A command to copy, further to the right than what it belongs to."""
    folded = fold(command, screen.width - 3 * INDENT) if command else []
    return indented([(Cell(line, "code"),) for line in folded], 3 * INDENT)


def _times(plan: Plan, screen: Screen) -> list[Line]:
    sheet = time_text.times(plan)
    return [] if sheet is None else _sheet(replace(sheet, title=""), screen)


def _alternatives(plan: Plan, screen: Screen) -> list[Line]:
    """The nearest alternatives, each with its trade and its command."""
    lines = paragraph("Alternatives", screen.width, "strong")
    for label, trade, command in time_text.alternatives(plan):
        lines.extend(indented(paragraph(f"{label}: {trade}", screen.width - INDENT)))
        lines.extend(_command(command, screen))
    return lines if len(lines) > 1 else []


def _thresholds(plan: Plan, screen: Screen) -> list[Line]:
    """What would change the choice."""
    texts = [line for text in time_text.thresholds(plan) for line in paragraph(text, screen.width - INDENT)]
    return [*paragraph("What would change the choice", screen.width, "strong"), *indented(texts)] if texts else []


def _ways(plan: Plan, group: plan_text.Group, screen: Screen) -> list[Line]:
    """Each way in one line of figures and words, and below it the command to run."""
    sheet = plan_text.ways(plan, group)
    change, verdict, needed, price, command = range(5)
    widest = [max(size(cells[index].text) for cells in sheet.rows) for index in range(5)]
    found = paragraph(group.heading, screen.width, "strong")
    for cells in sheet.rows:
        label = [
            Cell(cells[verdict].text.ljust(widest[verdict]), cells[verdict].tone),
            Cell(f"{cells[needed].text.rjust(widest[needed])} GiB".rjust(widest[needed] + GAP + 4)),
        ]
        if widest[price]:
            label.append(Cell(" " * GAP + cells[price].text.ljust(widest[price])))
        found.extend(indented(pairs([(tuple(label), cells[change])], screen.width - INDENT)))
        found.extend(_command(cells[command].text, screen))
    return found


def _assumptions(plan: Plan, screen: Screen) -> list[Line]:
    rows = [((Cell(who, "strong"),), Cell(text)) for who, text in plan_text.assumptions(plan)]
    return pairs(rows, screen.width)


def _notes(plan: Plan, screen: Screen) -> list[Line]:
    return pairs([((Cell("note", "faint"),), Cell(note)) for note in plan.notes], screen.width)
