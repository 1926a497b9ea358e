"""Memory over the events of a trace."""

import json

from planner.render import words
from planner.render.charts.look import (
    NARROW,
    OWNER_WORDS,
    PAPER,
    Look,
    Spec,
    along,
    by_owner,
    layered,
    rules,
    texts,
    up,
)
from planner.render.picture import LETTER, Picture
from planner.units import GIB

WIDTH, HEIGHT = 1200, 500
TITLE = "allocated, GiB"


def timeline(picture: Picture, look: Look = PAPER, *, interactive: bool = False) -> Spec:
    """The picture for a file of its own: with a legend, and under it what the lines are."""
    layers = [*_layers(picture, look, _legend(picture, look)), *_keys(picture, look)]
    if interactive:
        layers.append(_pointer(picture, look))
    padding = {"left": 10, "right": 14, "top": 12, "bottom": 12}
    return {**layered(look, layers, WIDTH, HEIGHT, padding), "datasets": {"rows": picture.rows}}


def bare(picture: Picture, look: Look, width: int, height: int) -> Spec:
    """The picture for a page, which says around it what its colours and lines are."""
    if width < NARROW:
        picture = picture._replace(peak_text=picture.peak_text.partition(" in ")[0])
    padding = {"left": 0, "right": 6, "top": 4, "bottom": 6}
    spec = layered(look, _layers(picture, look, None), width, height, padding)
    return {**spec, "datasets": {"rows": picture.rows}}


def _layers(picture: Picture, look: Look, legend: Spec | None) -> list[Spec]:
    return [
        _areas(picture, look, legend),
        *_phases(picture, look),
        *_edges(picture, look),
        *_peak(picture, look),
    ]


def _across(field: str = "x") -> Spec:
    return along(field, 0, 1)


def _areas(picture: Picture, look: Look, legend: Spec | None) -> Spec:
    """The owners, the first at the bottom."""
    owners = list(picture.owners)
    return {
        "data": {"name": "rows"},
        "transform": [
            {"fold": owners, "as": ["owner", "gib"]},
            {"calculate": f"indexof({json.dumps(owners)}, datum.owner)", "as": "rank"},
        ],
        "mark": {"type": "area", "interpolate": "step-after"},
        "encoding": {
            "x": _across(),
            "y": {**up(look, "gib", picture.top, TITLE), "stack": "zero"},
            "order": {"field": "rank", "type": "quantitative"},
            "color": by_owner(look, picture.owners, legend),
        },
    }


def _legend(picture: Picture, look: Look) -> Spec:
    """Owners in their order, with their bytes at the peak."""
    at_peak = picture.peak.memory._asdict()
    labels = {owner: f"{words.gib(at_peak[owner])}  {OWNER_WORDS[owner]}" for owner in picture.owners}
    return {
        "title": "GiB at the peak",
        "values": list(picture.owners)[::-1],
        "labelExpr": f"{json.dumps(labels)}[datum.label]",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titleColor": look.soft,
        "labelColor": look.ink,
        "symbolType": "square",
        "symbolSize": 160,
        "symbolStrokeWidth": 0,
        "rowPadding": 6,
        "offset": 22,
    }


def _phases(picture: Picture, look: Look) -> list[Spec]:
    """A line where a phase begins, a darker one where a step does, and their names above."""
    bands = picture.bands
    starts = [{"x": band.left} for band in bands[1:]]
    names = [{"x": (band.left + band.right) / 2, "text": band.name} for band in bands if band.name]
    steps = [{"x": left, "text": name} for left, name in picture.steps]
    firsts = [{"x": left} for left, _ in picture.steps if left]
    step_look = {"fontWeight": "bold", "align": "left", "dx": 5}
    return [
        rules(starts, {"x": _across(), **_from_above(20)}, look.paper, 1.6),
        rules(starts, {"x": _across(), **_from_above(20)}, look.soft, 0.6),
        rules(firsts, {"x": _across(), **_from_above(40)}, look.ink, 1.2),
        texts(names, {"x": _across(), "y": {"value": -10}}, look.soft),
        texts(steps, {"x": _across(), "y": {"value": -30}}, look.ink, **step_look),
    ]


def _from_above(above: int) -> Spec:
    return {"y": {"value": -above}, "y2": {"value": "height"}}


DASHES = ((), (5, 4))
"""The card's line is whole; what its context leaves is dashed."""


def _edges(picture: Picture, look: Look) -> list[Spec]:
    """The card's line, and a fainter one for what its context leaves."""
    return [
        rules([{"gib": edge.gib}], {"y": up(look, "gib", picture.top, TITLE)}, colour, 1.5, dash)
        for edge, colour, dash in zip(picture.edges, (look.edge, look.soft), DASHES, strict=False)
        if edge.drawn
    ]


def _keys(picture: Picture, look: Look) -> list[Spec]:
    """Below the plot: what the lines are."""
    found: list[Spec] = []
    left = 0.0
    for edge, colour, dash in zip(picture.edges, (look.edge, look.soft), DASHES, strict=False):
        if edge.drawn:
            place = {"x": {"value": left}, "x2": {"value": left + 24}, "y": BELOW}
            found.append(rules([{}], place, colour, 1.5, dash))
            left += 30
        found.append(_below(edge.text, left, colour))
        left += len(edge.text) * LETTER + 24
    return [*found, _below("left to right: one allocation or release after another", None, look.soft)]


BELOW: Spec = {"value": {"expr": "height + 20"}}
"""Height of the line of text under the plot."""


def _below(text: str, left: float | None, colour: str) -> Spec:
    """Text under the plot, from ``left`` or else up to the right."""
    place = {"x": {"value": "width" if left is None else left}, "y": BELOW}
    return texts([{"text": text}], place, colour, align="right" if left is None else "left")


def _peak(picture: Picture, look: Look) -> list[Spec]:
    """A point at the peak, its bytes and phase beside it, and down from it the instant that the legend tells."""
    height = picture.peak.memory.total / GIB
    close = [edge.gib for edge in picture.edges if edge.drawn and 0 <= edge.gib - height < CLOSE * picture.top]
    row = {"x": picture.peak_at, "gib": height, "above": max([height, *close]), "text": picture.peak_text}
    right = picture.peak_at > 1 / 2
    style = {"align": "right" if right else "left", "dx": -10 if right else 10, "dy": -12, "fontSize": 13}
    point = {"type": "point", "shape": "circle", "filled": True, "size": 60, "color": look.ink, "stroke": look.paper}
    place = {"x": _across(), "y": up(look, "gib", picture.top, TITLE)}
    dot = {"data": {"values": [row]}, "mark": {**point, "opacity": 1}, "encoding": place}
    instant = rules([row], {**place, "y2": {"value": "height"}}, look.ink, 0.8, (2, 2))
    name = {"x": _across(), "y": up(look, "above", picture.top, TITLE)}
    halo = {"stroke": look.paper, "strokeWidth": 4, "strokeJoin": "round"}
    return [
        instant,
        dot,
        texts([row], name, look.paper, fontWeight="bold", **style, **halo),
        texts([row], name, look.ink, fontWeight="bold", **style),
    ]


CLOSE = 0.08
"""A line so near above the peak (as a share of the picture's height) has the peak's name above it."""


def _pointer(picture: Picture, look: Look) -> Spec:
    """A line under the pointer that tells every owner's bytes."""
    shown = [("total", TITLE), *((owner, OWNER_WORDS[owner]) for owner in reversed(picture.owners))]
    tooltip = [{"field": name, "title": title, "type": "quantitative", "format": ",.2f"} for name, title in shown]
    select = {"type": "point", "on": "pointermove", "nearest": True, "encodings": ["x"], "clear": "pointerout"}
    return {
        "data": {"name": "rows"},
        "params": [{"name": "here", "select": select}],
        "mark": {"type": "rule", "color": look.ink, "strokeWidth": 1},
        "encoding": {
            "x": _across(),
            "opacity": {"condition": {"param": "here", "empty": False, "value": 0.8}, "value": 0},
            "tooltip": tooltip,
        },
    }
