"""What a timeline shows and where it stands, in the picture's own units: GiB, and 0 to 1 from left to right."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from planner.allocator.curve import POINTS, Sample, Span, curve, spans
from planner.allocator.events import Trace
from planner.render import words
from planner.render.sheet import printable
from planner.result import OWNERS
from planner.units import GIB, format_gib

PLOT = 920
"""Pixels across, the legend and the axis left out."""

LETTER = 6.2
"""Pixels of an average letter of a phase's name."""

LOW = 4
"""Where the card has more than so many times the peak, its edge is a note and not a line."""


class Band(NamedTuple):
    """A span from ``left`` to ``right`` (0 to 1 over the picture) and its name, where there is room for one."""

    left: float
    right: float
    name: str


class Edge(NamedTuple):
    """Where a card ends (GiB), in words, and whether there is a line for it."""

    gib: float
    text: str
    drawn: bool


class Picture(NamedTuple):
    """Everything that the chart shows, in its own units: GiB, and 0 to 1 across."""

    title: str
    rows: list[dict[str, float]]
    owners: tuple[str, ...]
    bands: tuple[Band, ...]
    steps: tuple[tuple[float, str], ...]
    """Where each step begins."""
    peak: Sample
    peak_at: float
    peak_text: str
    edges: tuple[Edge, ...]
    top: float

    @classmethod
    def of(
        cls,
        trace: Trace,
        handed_out: Sequence[int],
        title: str,
        usable: int,
        context: int,
        *,
        plot: int = PLOT,
        points: int = POINTS,
    ) -> "Picture":
        samples, parts = curve(trace, handed_out, points=points), spans(trace)
        bands = bands_of(parts, plot)
        places = _apart([place_of(sample, parts, bands) for sample in samples])
        best = max(range(len(samples)), key=lambda number: samples[number].memory.total)
        peak = samples[best]
        drawn = usable <= LOW * peak.memory.total
        highest = max(peak.memory.total, usable if drawn else 0, 1)
        owners = tuple(owner for owner in OWNERS if any(getattr(sample.memory, owner) for sample in samples))
        return cls(
            title=printable(title),
            rows=[_row(place, sample) for place, sample in zip(places, samples, strict=True)],
            owners=owners,
            bands=bands,
            steps=tuple(steps_of(parts, bands, plot)),
            peak=peak,
            peak_at=places[best],
            peak_text=_peak_text(peak, parts),
            edges=tuple(_edges_of(usable, context, drawn)),
            top=highest / GIB * ROOM,
        )


def _edges_of(usable: int, context: int, drawn: bool) -> Iterator[Edge]:
    yield Edge(usable / GIB, f"{format_gib(usable)} GiB usable{'' if drawn else ', far above'}", drawn)
    if drawn and 0 < context < usable:
        yield Edge((usable - context) / GIB, f"{format_gib(usable - context)} GiB without the CUDA context", drawn)


ROOM = 1.12
"""Height of the picture, the highest thing in it being 1: the peak has its name above it."""


def bands_of(parts: Sequence[Span], plot: int = PLOT) -> tuple[Band, ...]:
    """Spans side by side: each as wide as its name when all names have room, and the rest by numbers of events."""
    names = [words.phase(part.phase or "") for part in parts]
    least = [(len(name) + 2) * LETTER / plot for name in names]
    rest = 1 - sum(least)
    if rest < MINIMAL_REST:
        least, rest = [0.0] * len(parts), 1.0
    events = max(sum(part.end - part.start for part in parts), 1)
    found, left = [], 0.0
    for part, name, floor in zip(parts, names, least, strict=True):
        right = left + floor + rest * (part.end - part.start) / events
        fits = (right - left) * plot >= len(name) * LETTER
        found.append(Band(left, right, name if fits else ""))
        left = right
    return tuple(found)


MINIMAL_REST = 0.2
"""Where names would take more of the width than leaves this, they are shown only where they fit."""


def place_of(sample: Sample, parts: Sequence[Span], bands: Sequence[Band]) -> float:
    """Where a sample stands from left to right."""
    part, band = parts[sample.span], bands[sample.span]
    return band.left + (band.right - band.left) * (sample.number + 1 - part.start) / max(part.end - part.start, 1)


def steps_of(parts: Sequence[Span], bands: Sequence[Band], plot: int = PLOT) -> Iterator[tuple[float, str]]:
    """Where every step begins, and what it is called where there is room; loading is no step."""
    steps = [number for number, part in enumerate(parts) if part.phase not in (None, "load")]
    firsts = [number for number in steps if number == steps[0] or parts[number].step != parts[number - 1].step]
    for number, after in zip_longest(firsts, firsts[1:]):
        name = step_name(parts[number].step, len(firsts))
        width = (1.0 if after is None else bands[after].left) - bands[number].left
        yield bands[number].left, name if width * plot >= (len(name) + 2) * LETTER else ""


def _apart(places: Sequence[float]) -> list[float]:
    """The same, always rising: one phase ends where the next begins, and areas at one place are piled up."""
    found = [0.0]
    for place in places[1:]:
        found.append(max(place, found[-1] + 1e-6))
    return found


def _row(place: float, sample: Sample) -> dict[str, float]:
    memory = {owner: round(count / GIB, 5) for owner, count in sample.memory._asdict().items()}
    return {"x": round(place, 7), **memory, "total": round(sample.memory.total / GIB, 5)}


def _peak_text(peak: Sample, parts: Sequence[Span]) -> str:
    part = parts[peak.span]
    steps = len({other.step for other in parts})
    where = f" in {words.phase(part.phase)}" if part.phase else ""
    name = step_name(part.step, steps)
    which = name if name[-1].isdigit() else f"the {name}"
    of = f" of {which}" if steps > 1 and part.phase != "load" else ""
    return f"peak {format_gib(peak.memory.total, digits=2)} GiB{where}{of}"


def step_name(number: int, count: int) -> str:
    """How a step is called among ``count`` of them.

    >>> step_name(0, 2), step_name(1, 2), step_name(4, 9)
    ('first step', 'steady step', 'step 5')
    """
    if number == 0:
        return "first step"
    return "steady step" if count == 2 else f"step {number + 1}"
