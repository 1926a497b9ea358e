"""``plan validate``."""

from planner.cli.options import Values
from planner.cli.output import check_format
from planner.cli.show import show
from planner.errors import EXIT_FITS
from planner.render.listings import fits_sheet, report_document, scores_sheet, unscored_sheet
from planner.validation import validate


def main(values: Values) -> int:
    """Predict every published case that our stacks can express, and show the errors."""
    format_name = check_format(values["format"])
    report = validate()
    show(
        format_name,
        lambda: [scores_sheet(report), fits_sheet(report), unscored_sheet(report)],
        lambda: report_document(report),
    )
    return EXIT_FITS
