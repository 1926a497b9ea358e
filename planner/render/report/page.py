"""The whole report: one page that loads nothing."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from planner._version import __version__
from planner.render.charts.draw import INSTALL, missing
from planner.render.report import answer, sections, sources
from planner.render.report.html import Child, Html, element
from planner.reporting import Report

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The page may fetch nothing and run nothing, whatever stands in it."""


def page(report: Report) -> str:
    """The report as one HTML file; where the libraries for charts are not here, its tables, and a line that says so."""
    absent = missing()
    parts = list(_parts(report, drawn=not absent))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="generator", content=f"plan {__version__}"),
        element("title", answer.headline(report)),
        element("style", style()),
    )
    body = element(
        "body",
        element("a", "Skip to the answer's reasons", href="#main", class_="skip"),
        answer.header(report),
        _contents(parts),
        element("main", _without(absent), (section for _, _, section in parts), id="main", tabindex="-1"),
        _footer(report),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


@cache
def style() -> Html:
    """The style sheet, which holds no markup."""
    return Html(Path(__file__).with_name("style.css").read_text(encoding="utf-8"))


def _parts(report: Report, *, drawn: bool) -> Iterator[tuple[str, str, Html]]:
    """Name, heading and content of each part that has any."""
    made: tuple[tuple[str, str, Iterator[Child]], ...] = (
        ("why", "Why", answer.why(report)),
        ("memory", "Memory over the step", sections.memory(report, drawn=drawn)),
        ("methods", "The methods side by side", sections.methods(report, drawn=drawn)),
        ("how-far", "How far it goes", sections.reach(report, drawn=drawn)),
        ("money", "Time and money", sections.money(report, drawn=drawn)),
        ("otherwise", "What else would do", sections.otherwise(report)),
        ("start", "Where to start", sources.start(report)),
        ("assumptions", "Assumptions and sources", sources.assumptions(report)),
    )
    for name, heading, content in made:
        children = list(content)
        if children:
            title = element("h2", heading, id=f"{name}-heading")
            yield name, heading, element("section", title, children, id=name, aria_labelledby=f"{name}-heading")


def _contents(parts: list[tuple[str, str, Html]]) -> Html:
    items = (element("li", element("a", heading, href=f"#{name}")) for name, heading, _ in parts)
    return element("nav", element("ul", items), aria_label="On this page")


def _without(absent: str) -> Html | None:
    if not absent:
        return None
    text = f"The charts are left out: they need {absent}. Every number stands in the tables. "
    return element("p", text, element("code", INSTALL), class_="missing")


def _footer(report: Report) -> Html:
    made = f"Made on {report.made.isoformat()} by plan {__version__}. Asked again by:"
    return element("footer", element("p", made), element("pre", element("code", report.command), tabindex="0"))
