"""The timeline's chart in the words of Vega-Lite."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from planner.render import words
from planner.render.picture import LETTER, Picture
from planner.units import GIB

Spec = dict[str, Any]

WIDTH, HEIGHT = 1200, 500

COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "weights": "#0072B2",
        "adapters": "#56B4E9",
        "gradients": "#F0E442",
        "optimizer": "#CC79A7",
        "activations": "#009E73",
        "logits": "#D55E00",
        "temporaries": "#999999",
    }
)
"""The terminal's colours, in the shades that colour-blind people tell apart: Okabe and Ito 2008, jfly.uni-koeln.de."""

OWNER_WORDS: Mapping[str, str] = MappingProxyType({str(name): text for name, text in words.OWNER_WORDS.items()})

INK, GREY, PALE, EDGE = "#222222", "#555555", "#BBBBBB", "#B22222"


def chart(picture: Picture, *, interactive: bool = False) -> Spec:
    """The whole chart; what stands behind comes first."""
    across = {"field": "x", "type": "quantitative", "scale": {"domain": [0, 1], "nice": False}, "axis": None}
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "autosize": {"type": "fit", "contains": "padding"},
        "padding": {"left": 10, "right": 14, "top": 12, "bottom": 12},
        "background": "white",
        "config": {"font": FONT, "view": {"stroke": None}},
        "layer": [
            _areas(picture, across),
            *_phases(picture, across),
            *_edges(picture),
            *_peak(picture, across),
            *([_pointer(picture, across)] if interactive else []),
        ],
        "datasets": {"rows": picture.rows},
    }


FONT = "Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"


def _areas(picture: Picture, across: Spec) -> Spec:
    """The owners, the first at the bottom; the legend has their order and their bytes at the peak."""
    at_peak = picture.peak.memory._asdict()
    labels = {owner: f"{words.gib(at_peak[owner])}  {OWNER_WORDS[owner]}" for owner in picture.owners}
    owners = list(picture.owners)
    return {
        "data": {"name": "rows"},
        "transform": [
            {"fold": owners, "as": ["owner", "gib"]},
            {"calculate": f"indexof({json.dumps(owners)}, datum.owner)", "as": "rank"},
        ],
        "mark": {"type": "area", "interpolate": "step-after"},
        "encoding": {
            "x": across,
            "y": {**_up(picture, "gib"), "stack": "zero"},
            "order": {"field": "rank", "type": "quantitative"},
            "color": {
                "field": "owner",
                "type": "nominal",
                "scale": {"domain": owners, "range": [COLOURS[owner] for owner in owners]},
                "legend": {
                    "title": "GiB at the peak",
                    "values": owners[::-1],
                    "labelExpr": f"{json.dumps(labels)}[datum.label]",
                    "labelFontSize": 12,
                    "titleFontSize": 12,
                    "titleFontWeight": "normal",
                    "titleColor": GREY,
                    "labelColor": INK,
                    "symbolType": "square",
                    "symbolSize": 160,
                    "symbolStrokeWidth": 0,
                    "rowPadding": 6,
                    "offset": 22,
                },
            },
        },
    }


def _up(picture: Picture, field: str) -> Spec:
    axis = {
        "title": "allocated, GiB",
        "titleColor": GREY,
        "titleFontWeight": "normal",
        "titleFontSize": 12,
        "labelFontSize": 12,
        "labelColor": INK,
        "tickCount": 6,
        "gridColor": "#E4E4E4",
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
    }
    scale = {"domain": [0, picture.top], "nice": False, "zero": True}
    return {"field": field, "type": "quantitative", "scale": scale, "axis": axis}


def _phases(picture: Picture, across: Spec) -> list[Spec]:
    """A line where a phase begins, a darker one where a step does, and their names above."""
    bands = picture.bands
    starts = [{"x": band.left} for band in bands[1:]]
    names = [{"x": (band.left + band.right) / 2, "text": band.name} for band in bands if band.name]
    steps = [{"x": left, "text": name} for left, name in picture.steps]
    return [
        _rules(starts, across, "#FFFFFF", 1.6),
        _rules(starts, across, "#9A9A9A", 0.8),
        _rules([{"x": left} for left, _ in picture.steps if left], across, INK, 1.2, above=40),
        _text(names, across, {"y": {"value": -10}}, color=GREY, fontSize=12),
        _text(steps, across, {"y": {"value": -30}}, color=INK, fontSize=12, fontWeight="bold", align="left", dx=5),
    ]


def _rules(values: list[Spec], across: Spec, colour: str, width: float, above: int = 20) -> Spec:
    ends = {"y": {"value": -above}, "y2": {"value": "height"}}
    return {
        "data": {"values": values},
        "mark": {"type": "rule", "color": colour, "strokeWidth": width},
        "encoding": {"x": across, **ends},
    }


def _text(values: list[Spec], across: Spec, place: Spec, **look: object) -> Spec:
    return {
        "data": {"values": values},
        "mark": {"type": "text", "baseline": "middle", **look},
        "encoding": {"x": across, "text": {"field": "text", "type": "nominal"}, **place},
    }


def _edges(picture: Picture) -> list[Spec]:
    """The card's line, and a fainter one for what its context leaves; below the plot what they are."""
    found: list[Spec] = []
    left = 0.0
    for edge, colour, dash in zip(picture.edges, (EDGE, GREY), ([1, 0], [5, 4]), strict=False):
        line = {"type": "rule", "color": colour, "strokeWidth": 1.5, "strokeDash": dash}
        if edge.drawn:
            data = {"values": [{"gib": edge.gib}]}
            found.append({"data": data, "mark": line, "encoding": {"y": _up(picture, "gib")}})
            key = {"x": {"value": left}, "x2": {"value": left + 24}, "y": BELOW}
            found.append({"data": {"values": [{}]}, "mark": line, "encoding": key})
            left += 30
        found.append(_below(edge.text, left, colour))
        left += len(edge.text) * LETTER + 24
    return [*found, _below("left to right: one allocation or release after another", None, GREY)]


BELOW: Spec = {"value": {"expr": "height + 20"}}
"""Height of the line of text under the plot."""


def _below(text: str, left: float | None, colour: str) -> Spec:
    """Text under the plot, from ``left`` or else up to the right."""
    align = "right" if left is None else "left"
    mark = {"type": "text", "color": colour, "align": align, "baseline": "middle", "fontSize": 12}
    place = {"x": {"value": "width" if left is None else left}, "y": BELOW}
    return {"data": {"values": [{}]}, "mark": mark, "encoding": {**place, "text": {"value": text}}}


def _haloed(data: Spec, place: Spec, colour: str, look: Spec) -> list[Spec]:
    """Text on a white edge that keeps it readable on anything."""
    encoding = {**place, "text": {"field": "text", "type": "nominal"}}
    halo = {"type": "text", "color": "white", "stroke": "white", "strokeWidth": 4, "strokeJoin": "round", **look}
    ink = {"type": "text", "color": colour, **look}
    return [{"data": data, "mark": mark, "encoding": encoding} for mark in (halo, ink)]


def _peak(picture: Picture, across: Spec) -> list[Spec]:
    """A point at the peak, its bytes and phase beside it, and down from it the instant that the legend tells."""
    height = picture.peak.memory.total / GIB
    close = [edge.gib for edge in picture.edges if edge.drawn and 0 <= edge.gib - height < CLOSE * picture.top]
    data = {
        "values": [{"x": picture.peak_at, "gib": height, "above": max([height, *close]), "text": picture.peak_text}]
    }
    right = picture.peak_at > 1 / 2
    look = {"align": "right" if right else "left", "dx": -10 if right else 10, "dy": -12, "fontSize": 13}
    point = {"type": "point", "shape": "circle", "filled": True, "size": 60, "color": INK, "stroke": "white"}
    place = {"x": across, "y": _up(picture, "gib")}
    dot = {"data": data, "mark": {**point, "opacity": 1}, "encoding": place}
    down = {"type": "rule", "color": INK, "strokeWidth": 0.8, "strokeDash": [2, 2]}
    instant = {"data": data, "mark": down, "encoding": {**place, "y2": {"value": "height"}}}
    name = {"x": across, "y": _up(picture, "above")}
    return [instant, dot, *_haloed(data, name, INK, look | {"baseline": "middle", "fontWeight": "bold"})]


CLOSE = 0.08
"""A line so near above the peak (as a share of the picture's height) has the peak's name above it."""


def _pointer(picture: Picture, across: Spec) -> Spec:
    """A line under the pointer that tells every owner's bytes."""
    shown = [("total", "allocated, GiB"), *((owner, OWNER_WORDS[owner]) for owner in reversed(picture.owners))]
    tooltip = [{"field": name, "title": title, "type": "quantitative", "format": ",.2f"} for name, title in shown]
    return {
        "data": {"name": "rows"},
        "params": [
            {
                "name": "here",
                "select": {
                    "type": "point",
                    "on": "pointermove",
                    "nearest": True,
                    "encodings": ["x"],
                    "clear": "pointerout",
                },
            }
        ],
        "mark": {"type": "rule", "color": INK, "strokeWidth": 1},
        "encoding": {
            "x": across,
            "opacity": {"condition": {"param": "here", "empty": False, "value": 0.8}, "value": 0},
            "tooltip": tooltip,
        },
    }
