"""Neutral tables in the format that was asked for."""

from collections.abc import Callable, Sequence

from planner.cli.output import screen, write
from planner.render.markdown import sheet_markdown
from planner.render.sheet import Sheet


def show(format_name: str, sheets: Callable[[], Sequence[Sheet]], document: Callable[[], object]) -> None:
    """Write the tables, or the document as JSON; only what is needed is made."""
    if format_name == "json":
        from planner.render.machine import to_json  # noqa: PLC0415  (tables need no JSON)

        write(to_json(document()))
    elif format_name == "markdown":
        write("\n".join(sheet_markdown(sheet) for sheet in sheets()))
    else:
        from planner.render.draw import on_screen, show_sheets  # noqa: PLC0415  (rich is for text only)

        write(on_screen(screen(), lambda console: show_sheets(sheets(), console)))
