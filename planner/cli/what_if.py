"""``plan what-if --model M --gpu G``."""

from planner.cli.options import Values
from planner.cli.output import check_format, write, write_lines
from planner.cli.plan import request_from
from planner.cli.request import refuse_traced
from planner.errors import EXIT_FITS, EXIT_NOTHING_FITS
from planner.recommend.whatif import what_if
from planner.render.whatif import what_if_document, what_if_lines, what_if_markdown


def main(values: Values) -> int:
    """Every single change, best first; the exit code is 4 when nothing fits, neither as it is nor changed."""
    format_name = check_format(values["format"])
    found = what_if(refuse_traced(request_from(values, command="plan what-if"), command="plan what-if"))
    if format_name == "json":
        from planner.render.machine import to_json  # noqa: PLC0415  (tables need no JSON)

        write(to_json(what_if_document(found)))
    elif format_name == "markdown":
        write(what_if_markdown(found))
    else:
        write_lines(lambda screen: what_if_lines(found, screen))
    return EXIT_FITS if found.fits else EXIT_NOTHING_FITS
