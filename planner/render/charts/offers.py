"""Money and time of what can be rented: a dot for each offer between its bounds, on two scales beside each other."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from planner.recommend.rental import Rental
from planner.render.charts.look import NARROW, Look, Spec, along, down, layered, rules, texts
from planner.render.rent import estimated

HEAD, FOOT, LINE = 26, 24, 15
"""Pixels above the first row and below the last, and of a line of words."""

GAP = 0.16
"""Between the two scales, as a share of one of them."""


class Span(NamedTuple):
    """A number with its bounds, and as text."""

    value: float
    low: float
    high: float
    text: str


class Side(NamedTuple):
    """One of the two scales: what it shows of an offer, and where it stands."""

    title: str
    of: Callable[[Rental], Span]
    start: float


def offers(shown: Sequence[Rental], chosen: Rental | None, sides: tuple[Side, Side], look: Look, width: int) -> Spec:
    """Each offer in a row: its name, then where it stands in money and in time."""
    height = HEAD + _pitch(width) * len(shown) + FOOT
    layers = [layer for side in sides for layer in _side(side, shown, chosen, look, width, height)]
    return layered(look, layers, width, height, {"left": 6, "right": 6, "top": 0, "bottom": 0})


def sides(
    money: Callable[[Rental], Span], time: Callable[[Rental], Span], titles: tuple[str, str]
) -> tuple[Side, Side]:
    """Money on the left, time on the right."""
    return Side(titles[0], money, 0.0), Side(titles[1], time, 1 + GAP)


def _across(field: str = "x") -> Spec:
    return along(field, 0, 2 + GAP)


def _side(
    side: Side, shown: Sequence[Rental], chosen: Rental | None, look: Look, width: int, height: int
) -> Iterator[Spec]:
    spans = [side.of(one) for one in shown]
    scale = Scale.over(spans)
    ticks = scale.ticks(5 if width > NARROW else 3)
    marks = [{"x": side.start + scale.at(value), "text": f"{value:,g}"} for value in ticks]
    yield rules(marks, {"x": _across(), "y": {"value": HEAD}, "y2": {"value": height - FOOT}}, look.line)
    yield texts(marks, {"x": _across(), "y": {"value": height - FOOT + 12}}, look.soft)
    yield texts([{"x": side.start, "text": side.title}], {"x": _across(), "y": {"value": 10}}, look.soft, align="left")
    dots = [HEAD + _pitch(width) * (place + 1) - 11 for place in range(len(shown))]
    rows = [_row(*of, side, scale, width) for of in zip(shown, spans, dots, strict=True)]
    for kind in (True, False):
        of_kind = [row for row, one in zip(rows, shown, strict=True) if (one is chosen) == kind]
        if of_kind:
            yield from _marks(of_kind, kind, look, height)
            yield from _words(of_kind, kind, look, height, named=not side.start)


def _pitch(width: int) -> int:
    """Pixels from one offer to the next: on a phone its name has a line of its own."""
    return 38 if width >= NARROW else 38 + LINE


def _row(one: Rental, span: Span, dot: int, side: Side, scale: "Scale", width: int) -> Spec:
    """Where an offer stands on one scale, and what is written there."""
    return {
        "x": side.start + scale.at(span.value),
        "low": side.start + scale.at(span.low),
        "high": side.start + scale.at(span.high),
        "y": dot,
        "above": dot - LINE,
        "top": dot - LINE if width >= NARROW else dot - 2 * LINE,
        "left": side.start,
        "right": side.start + 1,
        "number": span.text,
        "name": f"{one.named}, {one.method}",
        "sure": not estimated(one),
    }


def _marks(rows: list[Spec], chosen: bool, look: Look, height: int) -> Iterator[Spec]:
    """Lines between the bounds, and dots: hollow ones where something is estimated."""
    colour = look.accent if chosen else look.soft
    level = {"y": down("y", height)}
    yield rules(rows, {"x": _across("low"), "x2": {"field": "high"}, **level}, colour, 3 if chosen else 2)
    point = {"type": "point", "shape": "circle", "filled": True, "opacity": 1, "stroke": colour, "strokeWidth": 1.6}
    for sure, fill in ((True, colour), (False, look.paper)):
        yield {
            "data": {"values": [row for row in rows if row["sure"] is sure]},
            "mark": {**point, "size": 90 if chosen else 60, "fill": fill},
            "encoding": {"x": _across(), **level},
        }


def _words(rows: list[Spec], chosen: bool, look: Look, height: int, *, named: bool) -> Iterator[Spec]:
    """The number at the right end of a row; at the left end of the first scale the offer's name."""
    weight = "bold" if chosen else "normal"
    ends = [("right", "number", "above"), *([("left", "name", "top")] if named else [])]
    for end, field, level in ends:
        written = [{"x": row[end], "above": row[level], "text": row[field]} for row in rows]
        place = {"x": _across(), "y": down("above", height)}
        yield texts(written, place, look.ink, align=end, fontWeight=weight)


class Scale(NamedTuple):
    """A logarithmic scale from ``low`` to ``high``, which become 0 and 1."""

    low: float
    high: float

    @classmethod
    def over(cls, spans: Sequence[Span]) -> "Scale":
        """From a round number below all spans to one above them."""
        low, high = min(span.low for span in spans), max(span.high for span in spans)
        return cls(
            max(value for value in _round_numbers(low / 10, high) if value <= low),
            min(value for value in _round_numbers(low, high * 10) if value >= high and value > low),
        )

    def at(self, value: float) -> float:
        """Where a value stands.

        >>> Scale(1, 100).at(10)
        0.5
        """
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self, most: int) -> list[float]:
        """Round numbers to mark, at most so many.

        >>> Scale(10, 500).ticks(6), Scale(10, 500).ticks(3), Scale(0.5, 2).ticks(5)
        ([10.0, 20.0, 50.0, 100.0, 200.0, 500.0], [10.0, 50.0, 200.0], [0.5, 1.0, 2.0])
        """
        marks = [value for value in _round_numbers(self.low, self.high) if self.low <= value <= self.high]
        stride = -(-len(marks) // most)
        return marks[::stride]


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten around ``low`` to ``high``."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [float(f"{digit}e{power}") for power in range(first, last + 1) for digit in (1, 2, 5)]
