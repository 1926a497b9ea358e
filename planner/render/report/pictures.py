"""Charts inside a page: each drawn for a wide page and for a phone, in colours that the style sheet gives."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from typing import NamedTuple

from planner.render.charts.draw import svg
from planner.render.charts.look import Spec
from planner.render.report.html import Child, Html, element

WIDE, PHONE = 760, 343
"""Pixels across, of a page's column and of a phone without its margins."""

SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG)


class Key(NamedTuple):
    """An entry of a legend: the class that colours its mark, and what it stands for."""

    mark: str
    text: str


def figure(
    name: str, title: str, draw: Callable[[int], Spec], alternative: str, keys: Iterable[Key], about: Child
) -> Html:
    """A chart with its legend above, its title and what to see below; and the same in words for those who do not."""
    wide, narrow = (
        element("div", inlined(svg(draw(width)), f"{name}-{width}"), class_=class_)
        for width, class_ in ((WIDE, "on-page"), (PHONE, "on-phone"))
    )
    return element(
        "figure",
        legend(keys),
        element("div", wide, narrow, role="img", aria_label=alternative, class_="chart"),
        element("figcaption", element("strong", title, id=f"{name}-title"), ". ", about),
        aria_labelledby=f"{name}-title",
        id=name,
    )


def legend(keys: Iterable[Key]) -> Html | None:
    """What the colours stand for; none where there is nothing to say."""
    items = [element("li", element("span", class_=f"swatch {key.mark}", aria_hidden="true"), key.text) for key in keys]
    return element("ul", items, class_="legend") if items else None


def inlined(drawing: str, name: str) -> Html:
    """A drawing as part of a page: it scales, its ids are its own, and what a mark says is shown by its pointer."""
    root = ElementTree.fromstring(drawing)
    for attribute in ("width", "height", "version", "class"):
        root.attrib.pop(attribute, None)
    root.set("aria-hidden", "true")
    root.set("focusable", "false")
    for part in root.iter():
        _clean(part)
    _rename(root, name)
    return Html(ElementTree.tostring(root, encoding="unicode"))


NOISE = ("role", "aria-roledescription", "aria-hidden", "class", "pointer-events", "font-family")
"""Attributes for those who would read the drawing itself: the figure says it in words."""


_LONG = re.compile(r"-?\d+\.\d{3,}")
"""Numbers with more digits than a screen has points."""


def _clean(part: ElementTree.Element) -> None:
    if part.tag != f"{{{SVG}}}svg":
        for attribute in NOISE:
            part.attrib.pop(attribute, None)
    for attribute in ("d", "transform"):
        if attribute in part.attrib:
            part.set(attribute, _LONG.sub(lambda match: f"{float(match[0]):.2f}", part.attrib[attribute]))
    said = part.attrib.pop("aria-label", None)
    if said and part.tag == f"{{{SVG}}}path":
        title = ElementTree.SubElement(part, f"{{{SVG}}}title")
        title.text = said
    for child in list(part):
        if child.get("display") == "none":
            part.remove(child)


def _rename(root: ElementTree.Element, name: str) -> None:
    """Ids with the drawing's name before them, wherever they stand."""
    known = {identity for part in root.iter() if (identity := part.get("id"))}
    for part in root.iter():
        for key, value in part.attrib.items():
            if key == "id":
                part.set(key, f"{name}-{value}")
            elif value.startswith("url(#") and value[5:-1] in known:
                part.set(key, f"url(#{name}-{value[5:-1]})")
