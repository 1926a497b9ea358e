"""A picture of memory over the steps: who holds how much at which moment, beside what the card has."""

import html
import importlib.util
import json
from collections.abc import Sequence
from io import BytesIO, StringIO
from pathlib import Path

from planner.allocator.events import Trace
from planner.errors import UsageError
from planner.render.picture import Picture
from planner.render.saved import save
from planner.render.sheet import printable
from planner.render.vegalite import FONT, INK, WIDTH, Spec, chart

SUFFIXES = (".html", ".png", ".svg")
INSTALL = 'pip install "finetune-planner[pictures]"'


def check_picture(out: Path) -> None:
    """Raise ``UsageError`` where ``timeline`` would: worth asking before a long trace."""
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"cannot draw {printable(out.name)[:80]!r}: a timeline ends in {', '.join(SUFFIXES)}")
    missing = [name for name in ("altair", "vl_convert") if importlib.util.find_spec(name) is None]
    if missing:
        libraries = " and ".join({"vl_convert": "vl-convert-python"}.get(name, name) for name in missing)
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
    import altair  # noqa: PLC0415  (an extra, and half a second)

    if suffix == ".html":
        spec = chart(picture, interactive=True)  # as it is: altair would move its parameters to where they fail
        return _page(picture.title, {"$schema": altair.SCHEMA_URL, **spec}).encode()
    heading = {
        "text": picture.title,
        "anchor": "start",
        "fontSize": 17,
        "color": INK,
        "offset": 12,
        "limit": WIDTH - 40,
    }
    drawn = altair.LayerChart.from_dict({**chart(picture), "title": heading})
    if suffix == ".svg":
        text = StringIO()
        drawn.save(text, format="svg")
        return text.getvalue().encode()
    pixels = BytesIO()
    drawn.save(pixels, format="png", scale_factor=SHARPNESS)
    return pixels.getvalue()


SHARPNESS = 2
"""Pixels of a PNG for each of the picture's, so that print and dense screens have enough."""


SNIPPET = "window.vegaEmbed = vegaEmbed;"
"""What the bundle of Vega's libraries leaves for the page."""


def _page(title: str, spec: Spec) -> str:
    """One page that loads nothing; the title may come from anybody's file."""
    import vl_convert  # noqa: PLC0415  (an extra)

    name, text = html.escape(title), json.dumps(spec, separators=(",", ":")).replace("<", "\\u003c")
    version = "{}.{}".format(*spec["$schema"].rpartition("/v")[2].split("."))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>
body {{ margin: 24px auto; max-width: {WIDTH}px; background: white; color: {INK}; font-family: {FONT}; }}
h1 {{ font-size: 17px; margin: 0 10px; }}
@media print {{ @page {{ size: landscape; }} body {{ margin: 0; zoom: 0.85; }} }}
</style>
<script>{vl_convert.javascript_bundle(SNIPPET, version)}</script>
</head>
<body>
<h1>{name}</h1>
<div id="timeline"></div>
<script>vegaEmbed("#timeline", {text}, {{"actions": false, "renderer": "svg"}}).catch(console.error);</script>
</body>
</html>
"""
