"""``plan frontier --model M --gpu G``."""

from planner.cli.options import Values
from planner.cli.output import check_format, write, write_lines
from planner.cli.plan import request_from
from planner.cli.request import refuse_traced
from planner.errors import EXIT_FITS, EXIT_NOTHING_FITS
from planner.recommend.frontier import frontier
from planner.render.frontier import frontier_document, frontier_lines, frontier_sheets


def main(values: Values) -> int:
    """The largest micro-batch at each length; the exit code is 4 when nothing fits at any."""
    format_name = check_format(values["format"])
    found = frontier(refuse_traced(request_from(values, command="plan frontier"), command="plan frontier"))
    if format_name == "json":
        from planner.render.machine import to_json  # noqa: PLC0415  (tables need no JSON)

        write(to_json(frontier_document(found)))
    elif format_name == "markdown":
        from planner.render.markdown import sheet_markdown  # noqa: PLC0415

        write("\n".join(sheet_markdown(sheet) for sheet in frontier_sheets(found)))
    else:
        write_lines(lambda screen: frontier_lines(found, screen))
    return EXIT_FITS if found.fits else EXIT_NOTHING_FITS
