"""A picture of memory over the steps: who holds how much at which moment, beside what the card has."""

import html
import json
from collections.abc import Sequence
from pathlib import Path

from planner.allocator.events import Trace
from planner.errors import UsageError
from planner.render.charts.draw import INSTALL, missing, png, svg, version
from planner.render.charts.look import FONT, PAPER, Spec
from planner.render.charts.timeline import WIDTH
from planner.render.charts.timeline import timeline as chart
from planner.render.picture import Picture
from planner.render.saved import save
from planner.render.sheet import printable

SUFFIXES = (".html", ".png", ".svg")


def check_picture(out: Path) -> None:
    """Raise ``UsageError`` where ``timeline`` would: worth asking before a long trace."""
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"cannot draw {printable(out.name)[:80]!r}: a timeline ends in {', '.join(SUFFIXES)}")
    if libraries := missing():
        raise UsageError(f"a timeline needs {libraries}: {INSTALL}")
    if not out.expanduser().parent.is_dir():
        raise UsageError(f"cannot write {printable(str(out))[:200]}: the folder does not exist")


def timeline(
    trace: Trace,
    *,
    title: str,
    usable_bytes: int,
    out: Path,
    handed_out: Sequence[int] = (),
    context_bytes: int = 0,
) -> None:
    """Draw ``trace`` to ``out``: ``.html`` (one file, which loads nothing), ``.png`` or ``.svg``.

    Bytes are those that were asked for, or ``handed_out`` by an allocator (``Replay.handed_out``). A line stands at
    ``usable_bytes``; of those, ``context_bytes`` are not the allocator's, and another line says so.
    """
    check_picture(out)
    picture = Picture.of(trace, handed_out, title, usable_bytes, context_bytes)
    save(out, _rendered(picture, out.suffix.lower()))


def _rendered(picture: Picture, suffix: str) -> bytes:
    if suffix == ".html":
        return _page(picture.title, chart(picture, interactive=True)).encode()
    heading = {
        "text": picture.title,
        "anchor": "start",
        "fontSize": 17,
        "color": PAPER.ink,
        "offset": 12,
        "limit": WIDTH - 40,
    }
    titled = {**chart(picture), "title": heading, "background": PAPER.paper}
    return svg(titled).encode() if suffix == ".svg" else png(titled)


SNIPPET = "window.vegaEmbed = vegaEmbed;"
"""What the bundle of Vega's libraries leaves for the page."""


def _page(title: str, spec: Spec) -> str:
    """One page that loads nothing; the title may come from anybody's file."""
    import vl_convert  # noqa: PLC0415  (an extra)

    name = html.escape(title)
    schema = f"https://vega.github.io/schema/vega-lite/v{version()}.json"
    text = json.dumps({"$schema": schema, **spec}, separators=(",", ":")).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>
body {{ margin: 24px auto; max-width: {WIDTH}px; background: white; color: {PAPER.ink}; font-family: {FONT}; }}
h1 {{ font-size: 17px; margin: 0 10px; }}
@media print {{ @page {{ size: landscape; }} body {{ margin: 0; zoom: 0.85; }} }}
</style>
<script>{vl_convert.javascript_bundle(SNIPPET, version())}</script>
</head>
<body>
<h1>{name}</h1>
<div id="timeline"></div>
<script>vegaEmbed("#timeline", {text}, {{"actions": false, "renderer": "svg"}}).catch(console.error);</script>
</body>
</html>
"""
