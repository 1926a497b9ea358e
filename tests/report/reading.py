"""A page as a reader of HTML finds it: elements, ids, tables; and one page for each kind of answer."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from types import MappingProxyType
from typing import Any

import pytest

from planner.recommend.request import request_of
from planner.render.report import page
from planner.reporting import Report, report
from planner.spec import Job

drawn = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("altair", "vl_convert")),
    reason="needs the pictures extra (altair, vl-convert-python)",
)

CASES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "fits": {"model": "8b", "gpu": "4090"},
        "nothing": {"model": "70b", "gpu": "4090"},
        "many": {"model": "70b", "gpu": "h100", "gpus": 8, "job": Job(tokens=50_000_000)},
        "tiny": {"model": "pythia-14m", "gpu": "h100"},
    }
)


@cache
def report_of(case: str) -> Report:
    """The report of a case."""
    return report(request_of(settings={}, **CASES[case]))


@cache
def page_of(case: str) -> str:
    """Its page."""
    return page(report_of(case))


VOID = frozenset({"meta", "br", "hr", "col", "link", "img", "input"})


@dataclass
class Element:
    """One element with what it holds."""

    name: str
    attributes: dict[str, str]
    children: list["Element | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All words in it, in order."""
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, *names: str) -> list["Element"]:
        """Elements below it with one of these names, or every one, in order."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                found += [child] if not names or child.name in names else []
                found += child.all(*names)
        return found

    def one(self, name: str) -> "Element":
        """The only element of a name."""
        (found,) = self.all(name)
        return found

    def id(self, identity: str) -> "Element":
        """The only element with an id."""
        (found,) = [one for one in self.all() if one.attributes.get("id") == identity]
        return found


class Reader(HTMLParser):
    """Builds elements; fails where tags are not closed in the order in which they were opened."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute of <{tag}> stands twice: {names}"
        one = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(one)
        if tag not in VOID:
            self.open.append(one)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].name == tag, f"</{tag}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(text: str) -> Element:
    """The page; every element is closed."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == [reader.root], f"left open: {[one.name for one in reader.open[1:]]}"
    return reader.root


def rows(page: Element, name: str) -> dict[str, list[str]]:
    """A table's rows by their heads, cells as text; the heads of its columns under the empty name."""
    (table,) = [one for one in page.all("table") if one.one("caption").attributes["id"] == name]
    heads, *body = table.all("tr")
    found = {"": [cell.text for cell in heads.all("th")]}
    for row in body:
        head, *cells = row.all("th", "td")
        found[head.text] = [cell.text for cell in cells]
    return found
