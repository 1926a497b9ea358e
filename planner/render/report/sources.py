"""What an answer rests on: settings and who chose them, rules of the stack, measurements, prices, documents."""

from collections.abc import Iterator

from planner.prices import age
from planner.recommend.recipe import recipe
from planner.render import plan_text, words
from planner.render import recipe as recipe_text
from planner.render.explained import stack_sheet
from planner.render.machine import settings_of
from planner.render.report.html import Child, element, link, sourced, table
from planner.render.report.sections import notes
from planner.render.sheet import Cell, Column, Sheet, row
from planner.reporting import Document, Report
from planner.result import Candidate
from planner.spec import Origin
from planner.stacks import describe_stack

WHO: dict[Origin, str] = {
    "user": "you",
    "stack": "the stack",
    "model": "the model",
    "default": "this planner",
    "plan": "this plan",
}


def start(report: Report) -> Iterator[Child]:
    """Settings that learning feels, with their ranges and sources."""
    found = recipe_text.sheet(recipe(report.candidate.scenario, report.plan.job))
    yield table(found, "What to set besides, and on whose word", name="table-recipe")


def assumptions(report: Report) -> Iterator[Child]:
    """Everything that was assumed, and on which source."""
    plan, one = report.plan, report.candidate
    yield table(settings(one), f"Settings of {one.method}, and who chose each", name="table-settings")
    yield notes([f"{who}: {text}" for who, text in plan_text.assumptions(plan)])
    yield table(evidence(report), "What the intervals rest on", name="table-evidence")
    stack = one.scenario.stack
    rules = describe_stack(",".join([stack.name, *(f"{name}={version}" for name, version in stack.versions.items())]))
    sheet = stack_sheet(stack.name, rules)
    yield table(sheet, f"What the stack does unasked: {plan_text.software(plan)}", name="table-stack")
    if prices := price(report):
        yield table(prices, "The price of the card, US$ an hour", name="table-price")
    if report.documents:
        yield element("h3", "Where the facts of card, price and model were read")
        yield element("ul", map(_document, report.documents), class_="notes")
    if found := (*plan.notes, *report.absent):
        yield element("h3", "Notes")
        yield notes(found)


def settings(one: Candidate) -> Sheet:
    """Every setting that acts on this candidate, and who chose it."""
    train, origins = one.scenario.train, one.scenario.origins
    rows = (
        row((words.option(name), words.value(getattr(train, name)), WHO[origins.get(name, "default")]))
        for name in settings_of(train)
        if plan_text.relevant([one], name) and getattr(train, name) != ""
    )
    return Sheet("", (Column("setting"), Column("value", wraps=True), Column("chosen by")), tuple(rows))


def evidence(report: Report) -> Sheet:
    """Of each candidate: kind of evidence, interval, and what that rests on."""
    columns = (
        Column("method"),
        Column("evidence"),
        Column("GiB", numeric=True),
        Column("low–high", numeric=True),
        Column("rests on", wraps=True),
        Column("holds", numeric=True),
    )
    labelled = zip(plan_text.labels(report.plan), report.plan.candidates, strict=True)
    return Sheet("", columns, tuple(_interval(label, one) for label, one in labelled))


def _interval(label: str, one: Candidate) -> tuple[Cell, ...]:
    peak, basis = one.estimate.peak, one.estimate.basis
    if basis is None:
        rests, holds = "nothing measured", ""
    else:
        names = f": {', '.join(basis.sources)}" if basis.sources else ""
        group = f" of {basis.group}" if basis.group else ""
        rests = f"{basis.kind}, {basis.n} numbers{group}{names}" if basis.n else basis.kind
        holds = "" if basis.coverage is None else f"{basis.coverage:.0%}"
    bounds = f"{words.gib(peak.low_bytes)}–{words.gib(peak.high_bytes)}"
    return row((label, one.estimate.evidence, words.gib(peak.required_bytes), bounds, rests, holds))


def price(report: Report) -> Sheet | None:
    """What sellers ask for the card, when that was noted, and how the typical price was chosen."""
    found = report.plan.cluster.gpu.price
    if found is None:
        return None
    columns = (
        Column("card"),
        Column("low", numeric=True),
        Column("typical", numeric=True),
        Column("hyperscaler", numeric=True),
        Column("noted"),
        Column("the typical price is", wraps=True),
    )
    amounts = (found.low_usd, found.typical_usd, found.hyperscaler_usd)
    shown = ("–" if usd is None else f"{usd:,.2f}" for usd in amounts)
    noted = f"{found.as_of}, {age(found.as_of, report.made)}"
    basis = f"estimated: {found.basis}" if found.estimated else found.basis
    return Sheet("", columns, (row((report.plan.cluster.gpu.id, *shown, noted, basis)),))


def _document(one: Document) -> Child:
    where = (" (", link(one.url), ")") if one.url.startswith(("https://", "http://")) else None
    note = f": {one.note}" if one.note else ""
    return element("li", f"{one.of}, {one.facts}: ", sourced(one.document), where, sourced(note))
