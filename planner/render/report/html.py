"""HTML from parts: whatever is not markup already is text, and is escaped."""

import html
import re
from collections.abc import Iterable

from planner.render.sheet import Cell, Sheet, printable

VOID = frozenset({"meta", "br", "hr", "col"})


class Html(str):
    """Finished markup."""

    __slots__ = ()


Child = str | Html | Iterable["Child"] | None


def element(name: str, /, *children: Child, **attributes: str | bool | None) -> Html:
    """One element; ``class_`` is the attribute ``class``, ``aria_label`` is ``aria-label``, ``None`` is left out.

    >>> element("p", "a < b ", element("b", "&"), class_="x", hidden=True, lang=None)
    '<p class="x" hidden>a &lt; b <b>&amp;</b></p>'
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value not in (None, False))
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{markup(children)}</{name}>")


def _attribute(key: str, value: str | bool | None) -> str:
    name = key.strip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(printable(str(value)))}"'


def markup(child: Child) -> Html:
    """Children as one piece of markup; a count stays with what it counts.

    >>> markup(["<", Html("<br>"), None, ["2 × x"]])
    '&lt;<br>2&nbsp;×&nbsp;x'
    """
    if child is None:
        return Html("")
    if isinstance(child, Html):
        return child
    if isinstance(child, str):
        return Html(html.escape(printable(child), quote=False).replace(" × ", "&nbsp;×&nbsp;"))
    return Html("".join(markup(one) for one in child))


# ---------------------------------------------------------------- words


_ADDRESS = re.compile(r"https?://[^\s<>\"')\],;]*[^\s<>\"')\],;.:]|arXiv:\d{4}\.\d{4,5}")


def sourced(text: str) -> Html:
    """Text in which addresses and numbers of arXiv are links.

    >>> sourced("see arXiv:2305.14314, <2>")
    'see <a href="https://arxiv.org/abs/2305.14314">arXiv:2305.14314</a>, &lt;2&gt;'
    """
    found: list[Child] = []
    end = 0
    for match in _ADDRESS.finditer(text):
        found += [text[end : match.start()], link(match[0])]
        end = match.end()
    return markup([*found, text[end:]])


def link(address: str, text: str = "") -> Html:
    """A link to a source."""
    where = f"https://arxiv.org/abs/{address[6:]}" if address.startswith("arXiv:") else address
    return element("a", text or address, href=where)


def command(lines: Iterable[str]) -> Html:
    """A command to copy, over several lines."""
    joined = Html("\n").join(markup(line) for line in lines)
    return element("pre", element("code", Html(joined)), tabindex="0")


def bullets(items: Iterable[Child], class_: str | None = None) -> Html:
    """A list."""
    return element("ul", (element("li", item) for item in items), class_=class_)


# ---------------------------------------------------------------- tables


def table(sheet: Sheet, caption: Child, *, name: str) -> Html:
    """A sheet as a table; its first column heads the rows. What is too wide scrolls by itself, also by the keyboard."""
    heads = (
        element("th", column.head, scope="col", class_=_align(column.numeric and place > 0))
        for place, column in enumerate(sheet.columns)
    )
    body = (_row(sheet, number) for number in range(len(sheet.rows)))
    return scrolling(
        element(
            "table",
            element("caption", element("span", caption), id=name),
            element("thead", element("tr", heads)),
            element("tbody", body),
        ),
        name,
    )


def scrolling(content: Html, name: str) -> Html:
    """A region, named by the element of the id ``name``, that scrolls when it is wider than the page."""
    return element("div", content, class_="wide", role="region", aria_labelledby=name, tabindex="0")


def _row(sheet: Sheet, number: int) -> Html:
    first, *rest = sheet.rows[number]
    cells = (
        element("td", _content(cell), class_=_classes(cell, column.numeric, column.wraps))
        for cell, column in zip(rest, sheet.columns[1:], strict=True)
    )
    head = element("th", _content(first), scope="row", class_=_classes(first, False, sheet.columns[0].wraps))
    return element("tr", head, cells, class_="ruled" if number in sheet.rules else None)


def _content(cell: Cell) -> Html:
    return element("code", cell.text) if cell.tone == "code" else sourced(cell.text)


def _classes(cell: Cell, numeric: bool, wraps: bool) -> str | None:
    tone = cell.tone if cell.tone in ("good", "warn", "bad", "strong", "faint") else ""
    return " ".join(filter(None, (_align(numeric), tone, "wraps" if wraps else ""))) or None


def _align(numeric: bool) -> str | None:
    return "number" if numeric else None
