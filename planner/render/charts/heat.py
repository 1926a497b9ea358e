"""Memory by micro-batch and length, with the frontier between what runs and what does not."""

from collections.abc import Iterator
from itertools import pairwise

from planner.recommend.frontier import Cell
from planner.recommend.surface import Point, Surface
from planner.render import words
from planner.render.charts.look import STEPS, Look, Spec, along, layered, texts, told
from planner.units import GIB

LEFT, ABOVE, BELOW = 34, 34, 34
"""Pixels beside, above and below the cells."""


def heat(surface: Surface, look: Look, width: int) -> Spec:
    """A cell for each point: GiB that a card must have; a line where it ends; above it the largest micro-batches."""
    columns, rows = len(surface.lengths), len(surface.batches)
    tall = min(max((width - LEFT) // columns * 2 // 3, 26), 40)
    height = ABOVE + BELOW + rows * tall
    layers = [*_cells(surface, look), *_frontier(surface, look), *_own(surface, look), *_names(surface, look)]
    frame = [_placed(layer, columns, rows, width, height) for layer in layers]
    return layered(look, frame, width, height, {"left": 0, "right": 0, "top": 0, "bottom": 0})


def shade(point: Point, usable: int) -> str:
    """The class of a cell: ``fits-1`` to ``fits-4`` by how full the card is, ``tight`` or ``over``.

    >>> shade(Point(seq_len=1, micro_batch_size=1, required_bytes=30, verdict="fits"), 100)
    'fits-2'
    """
    if point.verdict == "fits":
        return f"fits-{min(STEPS * point.required_bytes // max(usable, 1) + 1, STEPS)}"
    return "tight" if point.verdict == "tight" else "over"


def fills(look: Look) -> dict[str, str]:
    """The colour of each class."""
    return {
        **{f"fits-{number + 1}": colour for number, colour in enumerate(look.steps)},
        "tight": look.tight,
        "over": look.over,
    }


def _placed(layer: Spec, columns: int, rows: int, width: int, height: int) -> Spec:
    """The layer on the scale of the cells: columns from the left, rows from below."""
    encoding = dict(layer["encoding"])
    for name, low, high in (
        ("x", -LEFT * columns / (width - LEFT), columns),
        ("y", -BELOW * rows / (height - ABOVE - BELOW), rows + ABOVE * rows / (height - ABOVE - BELOW)),
    ):
        encoding[name] = along(encoding[name]["field"], low, high)
    return {**layer, "encoding": encoding}


BOX: Spec = {"x": {"field": "x"}, "x2": {"field": "x2"}, "y": {"field": "y"}, "y2": {"field": "y2"}}
POINT: Spec = {"x": {"field": "x"}, "y": {"field": "y"}}


def _cells(surface: Surface, look: Look) -> Iterator[Spec]:
    usable = surface.scenario.cluster.usable_bytes
    boxes, labels = [], {True: list[Spec](), False: list[Spec]()}
    for up, row in enumerate(surface.rows):
        for across, point in enumerate(row):
            verdict = words.VERDICTS[point.verdict][0]
            needed = words.gib(point.required_bytes)
            said = f"{point.micro_batch_size:,} × {point.seq_len:,} tokens: {needed} GiB, {verdict}"
            kind = shade(point, usable)
            boxes.append({"x": across, "x2": across + 1, "y": up, "y2": up + 1, "kind": kind, "told": said})
            labels[kind != "over"].append({"x": across + 0.5, "y": up + 0.5, "text": brief_gib(point.required_bytes)})
    colours = fills(look)
    scale = {"domain": list(colours), "range": list(colours.values())}
    yield {
        "data": {"values": boxes},
        "mark": {"type": "rect", "stroke": look.paper, "strokeWidth": 1.5, "aria": True},
        "encoding": {
            **BOX,
            "color": {"field": "kind", "type": "nominal", "scale": scale, "legend": None},
            "description": told(),
        },
    }
    size = 12 if len(surface.lengths) <= ROOMY else 11
    yield texts(labels[True], POINT, look.on_cells, fontSize=size)
    yield texts(labels[False], POINT, look.soft, fontSize=size)


ROOMY = 7
"""Up to so many columns, letters have their full size on a phone."""


def has_frontier(surface: Surface) -> bool:
    """Whether some of the cells run and others do not."""
    return len({point.verdict == "does_not_fit" for point in surface.points}) == 2


def _frontier(surface: Surface, look: Look) -> Iterator[Spec]:
    """The line along the edges of cells between what runs and what does not."""
    if not has_frontier(surface):
        return
    heights = [
        sum(row[across].verdict != "does_not_fit" for row in surface.rows) for across in range(len(surface.lengths))
    ]
    level = [
        {"x": across, "x2": across + 1, "y": height, "y2": height}
        for across, height in enumerate(heights)
        if 0 < height < len(surface.rows)
    ]
    down = [
        {"x": across + 1, "x2": across + 1, "y": before, "y2": after}
        for across, (before, after) in enumerate(pairwise(heights))
        if before != after
    ]
    mark = {"type": "rule", "color": look.ink, "strokeWidth": 2.4, "strokeCap": "square"}
    yield {"data": {"values": [*level, *down]}, "mark": mark, "encoding": BOX}


def _own(surface: Surface, look: Look) -> Iterator[Spec]:
    """A frame around the scenario's own batch and length."""
    train = surface.scenario.train
    across, up = surface.lengths.index(train.seq_len), surface.batches.index(train.micro_batch_size)
    box = {"x": across + 0.05, "x2": across + 0.95, "y": up + 0.07, "y2": up + 0.93}
    yield {
        "data": {"values": [box]},
        "mark": {"type": "rect", "fillOpacity": 0, "stroke": look.edge, "strokeWidth": 2, "cornerRadius": 3},
        "encoding": BOX,
    }


def _names(surface: Surface, look: Look) -> Iterator[Spec]:
    """Lengths below, micro-batches on the left, the largest micro-batches above."""
    most = {cell.seq_len: cell for cell in surface.lane.cells}
    above, below = [], []
    rows = len(surface.batches)
    for across, length in enumerate(surface.lengths):
        above.append({"x": across + 0.5, "y": rows, "text": largest(most[length])})
        below.append({"x": across + 0.5, "y": 0, "text": short(length)})
    side = [{"x": 0, "y": up + 0.5, "text": f"{batch:,}"} for up, batch in enumerate(surface.batches)]
    yield texts(above, POINT, look.ink, dy=-10, fontWeight="bold")
    yield texts(below, POINT, look.ink, dy=11)
    yield texts(side, POINT, look.ink, dx=-7, align="right")
    yield texts([{"x": 0, "y": rows, "text": "largest micro-batch that fits"}], POINT, look.soft, dy=-26, align="left")
    yield texts(
        [{"x": len(surface.lengths), "y": 0, "text": "tokens in a sequence"}], POINT, look.soft, dy=27, align="right"
    )
    yield texts([{"x": 0, "y": 0, "text": "micro-batch"}], POINT, look.soft, dy=27, dx=-LEFT, align="left")


def largest(cell: Cell) -> str:
    """The largest micro-batch that fits; in brackets one that fits by the best estimate only."""
    return f"{cell.fits:,}" if cell.fits else f"({cell.tight:,})" if cell.tight else "–"


def brief_gib(count: int) -> str:
    """GiB in at most four letters.

    >>> [brief_gib(gib * 2**30) for gib in (7, 134, 7221, 28818)]
    ['7.0', '134', '7221', '29k']
    """
    gib = count / GIB
    return words.gib(count) if gib < 99.95 else f"{gib:.0f}" if gib < 9999.5 else f"{gib / 1000:.0f}k"


def short(length: int) -> str:
    """A length in few letters.

    >>> [short(length) for length in (256, 2048, 131072, 3000)]
    ['256', '2k', '128k', '3,000']
    """
    return f"{length // 1024}k" if length >= 1024 and length % 1024 == 0 else f"{length:,}"
