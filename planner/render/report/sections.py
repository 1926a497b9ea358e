"""The parts of a report from its figures to its alternatives, each with its numbers as tables."""

from collections.abc import Iterator

from planner.recommend.rental import RentAnswer
from planner.recommend.surface import Point, Surface
from planner.render import plan_text, rent, time_text, words
from planner.render.charts.heat import largest
from planner.render.frontier import frontier_sheets
from planner.render.lines import fold
from planner.render.report import figures
from planner.render.report.answer import COMMAND_WIDTH
from planner.render.report.html import Child, Html, bullets, command, element, sourced, table
from planner.render.sheet import Cell, Column, Sheet, Tone, row
from planner.reporting import Report
from planner.result import ALL_PHASES, Candidate


def memory(report: Report, *, drawn: bool) -> Iterator[Child]:
    """Memory over the step of what is planned."""
    if drawn:
        yield figures.over_the_step(report)
    yield table(owners_by_phase(report.candidate), "Allocated GiB by phase and owner", name="table-phases")


def owners_by_phase(one: Candidate) -> Sheet:
    """The bytes of the chart: a row for each owner, their sum last."""
    estimate = one.estimate
    names = [name for name in ALL_PHASES if name in estimate.phases]
    columns = (Column("GiB"), *(Column(words.phase(name), numeric=True) for name in names))
    rows = [
        row((text, *(words.gib(getattr(estimate.phases[name], owner)) for name in names)))
        for owner, text in words.OWNER_WORDS.items()
    ]
    strong: dict[bool, Tone] = {True: "strong", False: ""}
    sums = (Cell(words.gib(estimate.phases[name].total), strong[name == estimate.peak.phase]) for name in names)
    return Sheet("", columns, (*rows, row(("allocated", *sums))), rules=(len(rows),))


def methods(report: Report, *, drawn: bool) -> Iterator[Child]:
    """The methods beside each other."""
    plan = report.plan
    if drawn:
        yield figures.side_by_side(report)
    verdicts = plan_text.verdicts(plan)
    yield table(verdicts, "Verdicts: GiB that one card must have", name="table-verdicts")
    yield notes(verdicts.notes)
    yield table(plan_text.breakdown(plan), "GiB at the peak, by owner and as it is counted", name="table-peaks")
    yield table(plan_text.phases(plan), "GiB allocated, by phase", name="table-methods-phases")


def reach(report: Report, *, drawn: bool) -> Iterator[Child]:
    """Micro-batch by length, and the frontier of every method."""
    if report.surface is not None:
        if drawn:
            yield figures.reach(report.surface)
        caption = "GiB by micro-batch, down, and tokens in a sequence, across"
        yield table(surface_sheet(report.surface), caption, name="table-reach")
        yield notes(["(n): fits by the best estimate, not by its upper bound; [n]: does not fit"])
    if report.frontier is not None:
        for number, sheet in enumerate(frontier_sheets(report.frontier), start=1):
            yield table(sheet, f"{sheet.title}, on the settings asked for", name=f"table-frontier-{number}")
            yield notes([note for note in sheet.notes if note not in report.plan.notes])


def surface_sheet(surface: Surface) -> Sheet:
    """The cells of the chart, the largest micro-batches last."""
    most = {cell.seq_len: cell for cell in surface.lane.cells}
    columns = (Column("micro-batch"), *(Column(f"{length:,}", numeric=True) for length in surface.lengths))
    rows = [
        row((f"{batch:,}", *(_cell(point) for point in points)))
        for batch, points in zip(surface.batches, surface.rows, strict=True)
    ]
    last = (largest(most[length]) for length in surface.lengths)
    return Sheet("", columns, (*rows, row(("largest that fits", *last))), rules=(len(rows),))


def _cell(point: Point) -> Cell:
    needed = words.gib(point.required_bytes)
    shown = {"fits": needed, "tight": f"({needed})", "does_not_fit": f"[{needed}]"}
    return Cell(shown[point.verdict], "faint" if point.verdict == "does_not_fit" else "")


# ---------------------------------------------------------------- time and money


def money(report: Report, *, drawn: bool) -> Iterator[Child]:
    """Seconds of a step, then offers to rent."""
    times = time_text.times(report.plan)
    if times is None:
        yield element("p", time_text.NO_RATE[0].upper() + time_text.NO_RATE[1:] + ".")
    else:
        yield table(times, f"{times.title} by method", name="table-times")
        parts = time_text.parts_sheet(report.plan)
        yield table(parts, parts.title, name="table-parts")
        yield notes(parts.notes)
    if report.offers is not None:
        yield from _offers(report.offers, report.plan.notes, drawn)


def _offers(answer: RentAnswer, answered: tuple[str, ...], drawn: bool) -> Iterator[Child]:
    shown = [answer.offers[place] for place in rent.shown(answer)]
    yield element("h3", rent.title(answer))
    if answer.nearest is not None:
        yield element("p", answer.nearest)
    if shown:
        if drawn:
            yield figures.money_and_time(answer, shown)
        yield table(rent.offers(answer), "Offers that no other beats, cheapest first", name="table-offers")
    if answer.choice is not None:
        yield element("p", "To rent: ", element("strong", rent.headline(answer.choice).text), ".", class_="way")
        yield command(fold(answer.choice.command, COMMAND_WIDTH))
        yield bullets((f"{reason.code}: {reason.text}" for reason in answer.reasons), class_="notes")
    if answer.others:
        sheet = rent.others(answer)
        yield table(sheet, sheet.title, name="table-other-cards")
    yield notes([note for note in rent.notes(answer) if note not in answered])


# ---------------------------------------------------------------- what else


def otherwise(report: Report) -> Iterator[Child]:
    """Alternatives, what would change the choice, and ways out where nothing fits with its margin."""
    plan = report.plan
    if found := time_text.alternatives(plan):
        yield element("h3", "Alternatives")
        for label, trade, asked in found:
            yield _way(f"{label}: {trade}", asked)
    if texts := time_text.thresholds(plan):
        yield element("h3", "What would change the choice")
        yield bullets(map(sourced, texts))
    for group in plan_text.groups(plan):
        yield element("h3", group.heading)
        for way in group.ways:
            verdict = words.verdict(way.candidate.verdict).text
            price = words.dollars(way.usd_per_hour)
            figures_of = ", ".join(filter(None, (verdict, words.against(way.candidate), price)))
            yield _way(f"{plan_text.way_title(plan, way)}: {figures_of}", way.command)


def _way(text: str, asked: str) -> Html:
    return element("div", element("p", text, class_="way"), command(fold(asked, COMMAND_WIDTH)))


def notes(texts: Iterator[str] | tuple[str, ...] | list[str]) -> Html | None:
    """What belongs to a table, below it."""
    found = list(texts)
    return bullets(map(sourced, found), class_="notes") if found else None
