"""How charts look: colours, letters, and the marks that every chart is made of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from planner.render import words

Spec = dict[str, Any]

FONT = "Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"

COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "weights": "#2F6DA8",
        "adapters": "#66B1E4",
        "gradients": "#D1A81E",
        "optimizer": "#B8659A",
        "activations": "#1A9A78",
        "logits": "#C8501A",
        "temporaries": "#5F5F5C",
        "context": "#CFCCC4",
    }
)
"""The terminal's colours in shades that colour-blind people tell apart: the hues of Okabe and Ito 2008
(jfly.uni-koeln.de), darker where white paper would swallow them."""

OWNER_WORDS: Mapping[str, str] = MappingProxyType(
    {**{str(name): text for name, text in words.OWNER_WORDS.items()}, "context": "context and slack"}
)
"""Owners of what the allocator counts, and what a card must hold besides."""

NARROW = 480
"""Pictures below this width are for a phone."""

STEPS = 4
"""Shades of what fits, from an emptier to a fuller card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Colours by what they are for. ``steps`` and ``tight``, ``over``: cells that fit, just fit and do not fit."""

    ink: str
    soft: str
    line: str
    paper: str
    edge: str
    accent: str
    owners: Mapping[str, str]
    steps: tuple[str, ...]
    tight: str
    over: str
    on_cells: str


PAPER = Look(
    ink="#222222",
    soft="#555555",
    line="#E4E4E4",
    paper="#FFFFFF",
    edge="#B22222",
    accent="#2F6DA8",
    owners=COLOURS,
    steps=("#D8EBDD", "#B5DBC2", "#8CC9A5", "#62B588"),
    tight="#F2D58A",
    over="#EDEBE6",
    on_cells="#1D2B23",
)
"""For a file of its own, on white."""

PAGE = Look(
    ink="var(--ink)",
    soft="var(--soft)",
    line="var(--line)",
    paper="var(--paper)",
    edge="var(--edge)",
    accent="var(--accent)",
    owners=MappingProxyType({owner: f"var(--{owner})" for owner in COLOURS}),
    steps=tuple(f"var(--fits-{number})" for number in range(1, STEPS + 1)),
    tight="var(--tight)",
    over="var(--over)",
    on_cells="var(--on-cells)",
)
"""Inside a page, whose style sheet gives the colours of a light and of a dark scheme."""


def layered(look: Look, layers: Iterable[Spec], width: int, height: int, padding: Mapping[str, int]) -> Spec:
    """A whole chart; what stands behind comes first."""
    return {
        "width": width,
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        "padding": dict(padding),
        "background": "transparent",
        "config": {"font": FONT, "view": {"stroke": None}, "aria": False, "text": {"color": look.ink}},
        "layer": list(layers),
    }


def along(field: str, low: float, high: float, **more: object) -> Spec:
    """A channel on a scale of numbers without an axis of its own."""
    scale = {"domain": [low, high], "nice": False, "zero": False}
    return {"field": field, "type": "quantitative", "scale": scale, "axis": None, **more}


def down(field: str, height: int) -> Spec:
    """The channel of a place in pixels from above."""
    return {**along(field, 0, height), "scale": {"domain": [0, height], "range": [0, height], "zero": False}}


def up(look: Look, field: str, top: float, title: str, ticks: int = 6) -> Spec:
    """The channel of a scale of GiB from 0, its lines across the picture."""
    axis = {
        "title": title,
        "titleColor": look.soft,
        "titleFontWeight": "normal",
        "titleFontSize": 12,
        "labelFontSize": 12,
        "labelColor": look.ink,
        "tickCount": ticks,
        "gridColor": look.line,
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
    }
    scale = {"domain": [0, top], "nice": False, "zero": True}
    return {"field": field, "type": "quantitative", "scale": scale, "axis": axis}


def by_owner(look: Look, owners: Iterable[str], legend: Spec | None = None) -> Spec:
    """The channel that gives each owner its colour."""
    domain = list(owners)
    return {
        "field": "owner",
        "type": "nominal",
        "scale": {"domain": domain, "range": [look.owners[owner] for owner in domain]},
        "legend": legend,
    }


def rules(values: list[Spec], encoding: Spec, colour: str, width: float = 1, dash: tuple[int, ...] = ()) -> Spec:
    """Lines."""
    mark: Spec = {"type": "rule", "color": colour, "strokeWidth": width}
    if dash:
        mark["strokeDash"] = list(dash)
    return {"data": {"values": values}, "mark": mark, "encoding": encoding}


def texts(values: list[Spec], encoding: Spec, colour: str, **style: object) -> Spec:
    """Words, from the field ``text``."""
    mark = {"type": "text", "baseline": "middle", "fontSize": 12, "color": colour, **style}
    return {"data": {"values": values}, "mark": mark, "encoding": {**encoding, "text": {"field": "text"}}}


def haloed(rows: list[Spec], place: Spec, look: Look, colour: str = "", **style: object) -> list[Spec]:
    """Bold words on an edge of the paper's colour, which keeps them readable on anything."""
    halo = {"stroke": look.paper, "strokeWidth": 4, "strokeJoin": "round"}
    return [
        texts(rows, place, look.paper, fontWeight="bold", **style, **halo),
        texts(rows, place, colour or look.ink, fontWeight="bold", **style),
    ]


def told(field: str = "told") -> Spec:
    """The channel of what a mark says when a pointer rests on it."""
    return {"field": field, "type": "nominal"}
