"""A memory bar: who takes the card's memory at the peak, drawn against the card's edge."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from rich.style import Style
from rich.text import Text

from planner.render import words
from planner.result import OWNERS, Candidate

CONTEXT = "context"
"""What a card must hold besides allocated bytes: CUDA context, libraries, allocator slack."""

PARTS = (*OWNERS, CONTEXT)
NO_BREAK = "\u00a0"
_NAMES = {**words.OWNER_WORDS, CONTEXT: "context, slack"}
_COLOURS = ("blue", "cyan", "yellow", "magenta", "green", "red", "bright_black", "white")
_SHADES = "█▞▒▓░╱▪·"
_LETTERS = "WaGOALt."
_EDGE, _BEYOND = ("│", "▶"), ("|", ">")
BEYOND_THE_CARD = Fraction(4, 3)
"""Where something does not fit, bars show this much of the card, so that its edge stands inside."""


@dataclass(frozen=True, slots=True)
class Palette:
    """How parts look: by colour, by shade, or by letter where the encoding has no shades."""

    colour: bool
    ascii_only: bool

    def mark(self, part: str) -> tuple[str, Style]:
        """Character and style of one part."""
        index = PARTS.index(part)
        if self.colour and not self.ascii_only:
            return "█", Style(color=_COLOURS[index])
        glyphs = _LETTERS if self.ascii_only else _SHADES
        return glyphs[index], Style(color=_COLOURS[index]) if self.colour else Style()

    @property
    def edge(self) -> str:
        """The card's edge."""
        return (_BEYOND if self.ascii_only else _EDGE)[0]

    @property
    def beyond(self) -> str:
        """The end of a bar that goes on."""
        return (_BEYOND if self.ascii_only else _EDGE)[1]


@dataclass(frozen=True, slots=True)
class Scale:
    """``width`` characters stand for ``span`` bytes, of which the card offers ``usable``."""

    width: int
    span: int
    usable: int

    @property
    def edge(self) -> int:
        """Column of the card's edge; ``width`` when it coincides with the bar's end."""
        return round(Fraction(self.usable, self.span) * self.width) if self.span else 0


def heading(scale: Scale) -> Text:
    """The card's size, ending where its edge stands in the bars below."""
    label = f"{words.gib(scale.usable)} GiB"
    return Text(label.rjust(scale.edge + 1), no_wrap=True)


def scale_for(candidates: Sequence[Candidate], usable: int, width: int) -> Scale:
    """One scale for all bars: the card, and a third more when something reaches beyond it."""
    most = max((candidate.estimate.peak.required_bytes for candidate in candidates), default=0)
    span = usable if most <= usable else int(usable * BEYOND_THE_CARD)
    return Scale(width=width, span=max(span, 1), usable=usable)


def bar(candidate: Candidate, scale: Scale, palette: Palette) -> Text:
    """One bar of ``scale.width`` characters."""
    parts = _columns(candidate, scale)
    text = Text(no_wrap=True)
    for column, part in enumerate(parts):
        if column == scale.edge:
            text.append(palette.edge, Style(bold=True))
        elif part is None:
            text.append(" ")
        elif column == scale.width - 1 and candidate.estimate.peak.required_bytes > scale.span:
            text.append(palette.beyond, palette.mark(part)[1])
        else:
            text.append(*palette.mark(part))
    if scale.edge >= scale.width:
        text.append(palette.edge, Style(bold=True))
    return text


def drawn(candidates: Sequence[Candidate], scale: Scale) -> tuple[str, ...]:
    """Parts that take at least one character of some bar."""
    seen = {part for candidate in candidates for part in _columns(candidate, scale)}
    return tuple(part for part in PARTS if part in seen)


def legend(parts: Sequence[str], palette: Palette) -> Text:
    """Which mark is whose."""
    text = Text()
    for part in parts:
        text.append(*palette.mark(part))
        text.append(f"{NO_BREAK}{_NAMES[part].replace(' ', NO_BREAK)}  ")
    text.rstrip()
    return text


def _columns(candidate: Candidate, scale: Scale) -> list[str | None]:
    """The part that owns the middle of each character."""
    bounds, total = [], 0
    memory, peak = candidate.estimate.peak_memory, candidate.estimate.peak
    sizes = {**memory._asdict(), CONTEXT: peak.required_bytes - peak.allocated_bytes}
    for part in PARTS:
        total += max(sizes[part], 0)
        bounds.append((total, part))
    middles = [Fraction(2 * column + 1, 2 * scale.width) * scale.span for column in range(scale.width)]
    return [next((part for bound, part in bounds if middle < bound), None) for middle in middles]
