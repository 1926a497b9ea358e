"""Small pieces of Markdown that generated sections are made of."""

from collections.abc import Iterable


def table(head: Iterable[str], rows: Iterable[Iterable[object]], *, right: Iterable[int] = ()) -> str:
    """A Markdown table; ``right`` names the columns of numbers, counted from 0."""
    names, numeric = list(head), set(right)
    lines = [names, ["---:" if place in numeric else "---" for place in range(len(names))]]
    lines += [[str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(text: object) -> str:
    """Text in code style, fit for a table."""
    return f"`{text}`".replace("|", "\\|")


def percent(ratio: float, places: int = 1, *, sign: bool = False) -> str:
    """A ratio with ``places`` decimals, never "-0.0"."""
    shown = round(ratio * 100, places) + 0.0
    return f"{shown:+.{places}f} %" if sign and shown else f"{shown:.{places}f} %"
