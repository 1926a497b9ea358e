"""Methods beside each other at their peaks, with their intervals, against the card."""

from collections.abc import Iterator, Sequence

from planner.render import words
from planner.render.charts.look import NARROW, Look, Spec, along, by_owner, haloed, layered, rules, texts, told
from planner.render.charts.stacks import drawn, owners_of, segments, with_slack
from planner.result import Candidate
from planner.units import GIB

PITCH, BAR = 62, 22
"""Pixels from one method to the next, and of its bar."""


def methods(
    candidates: Sequence[Candidate], labels: Sequence[str], chosen: Candidate | None, look: Look, width: int
) -> Spec:
    """A bar for each candidate at its peak, with its interval, on one scale with the card's line."""
    usable = candidates[0].scenario.cluster.usable_bytes
    highest = max(one.estimate.peak.high_bytes for one in candidates)
    line = drawn(usable, highest)
    top = max(highest, usable if line else 0, 1) / GIB * 1.02
    height = PITCH * len(candidates) + HEAD + FOOT
    layers: list[Spec] = list(_scale(top, height, look, width))
    for place, (one, label) in enumerate(zip(candidates, labels, strict=True)):
        middle = HEAD + PITCH * place + PITCH - BAR / 2 - 8
        layers += _method(one, label, one is chosen, middle, top, look, owners_of(candidates))
    if line:
        layers += _edge(usable, top, height, look)
    return layered(look, layers, width, height, {"left": 0, "right": 0, "top": 0, "bottom": 0})


HEAD, FOOT = 22, 24
"""Pixels above the first method and below the last."""


def _scale(top: float, height: int, look: Look, width: int) -> Iterator[Spec]:
    """Lines of the scale and, below, their GiB."""
    values = [{"gib": value, "text": f"{value:,g}"} for value in ticks(top, 6 if width >= NARROW else 4)]
    yield rules(values, {"x": along("gib", 0, top), "y": {"value": HEAD}, "y2": {"value": height - FOOT}}, look.line)
    yield texts(values[:-1], {"x": along("gib", 0, top), "y": {"value": height - FOOT + 12}}, look.soft)
    last = [{**values[-1], "text": f"{values[-1]['text']} GiB"}]
    yield texts(last, {"x": along("gib", 0, top), "y": {"value": height - FOOT + 12}}, look.soft)


def ticks(top: float, most: int) -> list[float]:
    """Round numbers from 0 on below ``top``, at most so many besides 0.

    >>> ticks(24, 6), ticks(1.1, 6), ticks(540, 4)
    ([0.0, 5.0, 10.0, 15.0, 20.0], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 200.0, 400.0])
    """
    step = next(
        digit * 10**power / 1000
        for power in range(12)
        for digit in (1, 2, 5)
        if top * 0.93 / (digit * 10**power / 1000) < most + 1
    )
    return [round(step * number, 6) for number in range(int(top * 0.93 / step) + 1)]


def _method(
    one: Candidate, label: str, chosen: bool, middle: float, top: float, look: Look, owners: Sequence[str]
) -> list[Spec]:
    """The bar in its row: the method's name above it on the left, verdict and bytes on the right, then its interval."""
    peak = one.estimate.peak
    verdict, tone = words.VERDICTS[one.verdict]
    low, high = words.gib(peak.low_bytes), words.gib(peak.high_bytes)
    name = f"{label}, recommended" if chosen else label
    said = f"{verdict}: {words.gib(peak.required_bytes)} GiB ({low}–{high})"
    colour = look.soft if tone == "bad" else look.ink
    left, right = ({"x": {"value": x}, "y": {"value": middle - BAR / 2 - 10}} for x in (0, "width"))
    return [
        texts([{"text": name}], left, look.ink, align="left", fontWeight="bold", fontSize=13),
        texts([{"text": said}], right, colour, align="right"),
        _bar(one, label, middle, top, look, owners),
        *_whisker(peak.low_bytes / GIB, peak.high_bytes / GIB, middle, top, look),
    ]


def _bar(one: Candidate, label: str, middle: float, top: float, look: Look, owners: Sequence[str]) -> Spec:
    return {
        "data": {"values": [part.row(f" of {label}") for part in segments(label, with_slack(one))]},
        "mark": {"type": "rect", "stroke": look.paper, "strokeWidth": 0.7, "aria": True},
        "encoding": {
            "x": along("from", 0, top),
            "x2": {"field": "to"},
            "y": {"value": middle - BAR / 2},
            "y2": {"value": middle + BAR / 2},
            "color": by_owner(look, owners),
            "description": told(),
        },
    }


def _whisker(low: float, high: float, middle: float, top: float, look: Look) -> list[Spec]:
    """The interval, with a cap at either end, on an edge of the paper's colour."""
    across, ends = [{"gib": low, "to": high}], [{"gib": low}, {"gib": high}]
    line = {"x": along("gib", 0, top), "x2": {"field": "to"}, "y": {"value": middle}}
    caps = {"x": along("gib", 0, top), "y": {"value": middle - 5}, "y2": {"value": middle + 5}}
    found = []
    for colour, width in ((look.paper, 3.4), (look.ink, 1.4)):
        found += [rules(across, line, colour, width), rules(ends, caps, colour, width)]
    return found


def _edge(usable: int, top: float, height: int, look: Look) -> list[Spec]:
    """The card's line down through all bars, named above them."""
    row = {"gib": usable / GIB, "text": f"{words.gib(usable)} GiB usable"}
    share = usable / GIB / top
    align = "left" if share < 0.25 else "right" if share > 0.75 else "center"
    place = {"x": along("gib", 0, top)}
    return [
        rules([row], {**place, "y": {"value": 14}, "y2": {"value": height - FOOT}}, look.edge, 1.5),
        *haloed([row], {**place, "y": {"value": 7}}, look, look.edge, align=align),
    ]
