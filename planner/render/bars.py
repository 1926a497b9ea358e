"""A memory bar: who takes the card's memory at the peak, drawn against the card's edge."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType

from planner.render import words
from planner.render.lines import Line, Screen, length
from planner.render.sheet import Cell, Owner
from planner.result import Candidate
from planner.units import format_gib

NAMES: Mapping[Owner, str] = MappingProxyType({**words.OWNER_WORDS, "context": "context, slack"})
"""Owners of allocated bytes, and what a card must hold besides: CUDA context, libraries, allocator slack."""

SHADES: Mapping[Owner, tuple[str, str]] = MappingProxyType(
    dict(zip(NAMES, zip("█▞▒▓░╱▪·", "WaGOALt.", strict=True), strict=True))
)
"""Marks without colour: a shade, or a letter where the encoding has no shades."""

BEYOND_NUMERATOR, BEYOND_DENOMINATOR = 4, 3
"""Where something does not fit, bars show this much of the card, so that its edge stands inside."""


@dataclass(frozen=True, slots=True)
class Scale:
    """``width`` characters stand for ``span`` bytes, of which the card offers ``usable``."""

    width: int
    span: int
    usable: int

    @property
    def edge(self) -> int:
        """Column of the card's edge; ``width`` when the bar ends there."""
        return self.usable * self.width // self.span

    def middle(self, column: int) -> int:
        """Bytes at the middle of a character."""
        return (2 * column + 1) * self.span // (2 * self.width)


def scale_for(candidates: Iterable[Candidate], usable: int, width: int) -> Scale:
    """One scale for all bars: the card, and a third more when something reaches beyond it."""
    most = max((candidate.estimate.peak.required_bytes for candidate in candidates), default=0)
    span = usable if most <= usable else usable * BEYOND_NUMERATOR // BEYOND_DENOMINATOR
    return Scale(width=width, span=max(span, 1), usable=usable)


def heading(scale: Scale) -> Line:
    """The card's size, ending where its edge stands in the bars below."""
    return (Cell(f"{format_gib(scale.usable)} GiB".rjust(scale.edge + 1), "faint"),)


def bar(candidate: Candidate, scale: Scale, screen: Screen) -> Line:
    """One bar of ``scale.width`` characters, and the card's edge."""
    edge, beyond = ("|", ">") if screen.ascii_only else ("│", "▶")
    cells = [_mark(owner, screen) for owner in _columns(candidate, scale)]
    if candidate.estimate.peak.required_bytes > scale.span:
        cells[-1] = Cell(beyond, cells[-1].tone)
    cells[scale.edge : scale.edge + 1] = [Cell(edge, "strong")]
    return tuple(
        Cell("".join(cell.text for cell in run), tone) for tone, run in groupby(cells, key=lambda cell: cell.tone)
    )


def legend(candidates: Sequence[Candidate], scale: Scale, screen: Screen) -> list[Line]:
    """Which mark is whose, for the marks that some bar shows."""
    seen = {owner for candidate in candidates for owner in _columns(candidate, scale)}
    lines: list[Line] = [()]
    for owner, name in NAMES.items():
        if owner in seen:
            entry = (_mark(owner, screen), Cell(f" {name}"))
            if length(lines[-1]) + length(entry) + 4 > screen.width:
                lines.append(())
            lines[-1] = (*lines[-1], *([Cell("  ")] if lines[-1] else []), *entry)
    return lines


def _mark(owner: Owner | None, screen: Screen) -> Cell:
    if owner is None:
        return Cell(" ")
    shade, letter = SHADES[owner]
    return Cell(letter if screen.ascii_only else "█" if screen.colour else shade, owner)


def _columns(candidate: Candidate, scale: Scale) -> list[Owner | None]:
    """The owner of the middle of each character."""
    memory, peak = candidate.estimate.peak_memory, candidate.estimate.peak
    sizes = {**memory._asdict(), "context": peak.required_bytes - peak.allocated_bytes}
    bounds: list[tuple[int, Owner]] = []
    total = 0
    for owner in NAMES:
        total += max(sizes[owner], 0)
        bounds.append((total, owner))
    middles = map(scale.middle, range(scale.width))
    return [next((owner for bound, owner in bounds if middle < bound), None) for middle in middles]
