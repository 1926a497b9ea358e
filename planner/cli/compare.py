"""``plan compare --model M --gpu G``."""

from planner.cli.options import Values
from planner.cli.output import check_format
from planner.cli.request import build_request, refuse_traced
from planner.cli.show import show
from planner.errors import EXIT_FITS
from planner.recommend.compare import compare
from planner.render.compared import compared_document, compared_sheets


def main(values: Values) -> int:
    """Compare the three methods for one model on one kind of card."""
    format_name = check_format(values["format"])
    comparison = compare(refuse_traced(build_request(values, command="plan compare"), command="plan compare"))
    show(format_name, lambda: compared_sheets(comparison), lambda: compared_document(comparison))
    return EXIT_FITS
