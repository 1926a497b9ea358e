"""Help for terminals of every width; typer's own needs 50 columns, and more where flags are long."""

from typing import Any

import typer

from planner.cli.output import screen_width

WIDE = 60
"""Columns from which options stand beside what they mean."""


def help_text(context: typer.Context) -> str:
    """The help of a command, no wider than the terminal."""
    width = screen_width()
    if width >= WIDE:
        return context.get_help() + "\n"
    formatter = _narrow(type(context).formatter_class)(width=width)
    context.command.format_help(context, formatter)
    return str(formatter.getvalue()).rstrip("\n") + "\n"


def _narrow(kind: Any) -> Any:  # noqa: ANN401  (click's formatter, whose home differs by version of typer)
    """A formatter that writes what an option means below it."""

    class Narrow(kind):  # type: ignore[misc]
        def write_dl(self, rows: Any, col_max: int = 0, col_spacing: int = 0) -> None:  # noqa: ANN401
            wrapped = [(first.replace(" / ", "\n  / "), second) for first, second in rows]
            super().write_dl(wrapped, 2, 2)

    return Narrow
