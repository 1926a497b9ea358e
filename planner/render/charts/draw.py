"""Charts to pictures, by the exporter of altair, in the language that altair speaks; both are an extra."""

import importlib.util

from planner.render.charts.look import Spec

INSTALL = 'pip install "finetune-planner[pictures]"'

SHARPNESS = 2
"""Pixels of a PNG for each of the picture's, so that print and dense screens have enough."""


def missing() -> str:
    """Libraries that charts need and that are not here, as a phrase; empty where all are."""
    absent = [name for name in ("altair", "vl_convert") if importlib.util.find_spec(name) is None]
    return " and ".join({"vl_convert": "vl-convert-python"}.get(name, name) for name in absent)


def version() -> str:
    """The version of Vega-Lite that altair knows, of which the exporter has several.

    >>> import re
    >>> re.sub("[0-9]+", "n", version()) if not missing() else "n.n"
    'n.n'
    """
    import altair  # noqa: PLC0415  (an extra, and half a second)

    return ".".join(altair.VEGALITE_VERSION.split(".")[:2])


def svg(spec: Spec) -> str:
    """The chart as SVG; nothing is fetched."""
    import vl_convert  # noqa: PLC0415

    drawing: str = vl_convert.vegalite_to_svg(spec, version(), allowed_base_urls=[])
    return drawing


def png(spec: Spec) -> bytes:
    """The chart as PNG; nothing is fetched."""
    import vl_convert  # noqa: PLC0415

    pixels: bytes = vl_convert.vegalite_to_png(spec, version(), scale=SHARPNESS, allowed_base_urls=[])
    return pixels
