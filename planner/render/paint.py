"""Lines in colour: the only module that needs a terminal library."""

from collections.abc import Iterable, Mapping
from io import StringIO
from types import MappingProxyType
from typing import Literal

from rich.console import Console
from rich.text import Text

from planner.render.lines import Line
from planner.render.sheet import Tone, printable

ColorSystem = Literal["standard", "256", "truecolor", "windows"]

STYLES: Mapping[Tone, str] = MappingProxyType(
    {
        "": "",
        "good": "bold green",
        "warn": "bold yellow",
        "bad": "bold red",
        "strong": "bold",
        "faint": "dim",
        "code": "dim",
        "weights": "blue",
        "adapters": "cyan",
        "gradients": "yellow",
        "optimizer": "magenta",
        "activations": "green",
        "logits": "red",
        "temporaries": "bright_black",
        "context": "white",
    }
)
"""What a tone looks like."""


def painted(lines: Iterable[Line], color_system: ColorSystem) -> str:
    """Lines with escape codes for that kind of terminal."""
    page = StringIO()
    console = Console(file=page, width=10_000, color_system=color_system, force_terminal=True, _environ={})
    for line in lines:
        text = Text.assemble(*((printable(cell.text), STYLES[cell.tone]) for cell in line), no_wrap=True, end="\n")
        text.rstrip()
        console.print(text, crop=False, soft_wrap=True, highlight=False)
    return page.getvalue()
