"""Neutral tables in the format that was asked for."""

from collections.abc import Callable, Sequence

from planner.cli.output import write, write_lines
from planner.render.markdown import sheet_markdown
from planner.render.sheet import Sheet
from planner.render.terminal import sheets_lines


def show(format_name: str, sheets: Callable[[], Sequence[Sheet]], document: Callable[[], object]) -> None:
    """Write the tables, or the document as JSON; only what is needed is made."""
    if format_name == "json":
        from planner.render.machine import to_json  # noqa: PLC0415  (tables need no JSON)

        write(to_json(document()))
    elif format_name == "markdown":
        write("\n".join(sheet_markdown(sheet) for sheet in sheets()))
    else:
        write_lines(lambda screen: sheets_lines(sheets(), screen))
