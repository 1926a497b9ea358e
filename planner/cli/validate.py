"""``plan validate``: predictions against what others measured, or the closed form against the trace."""

from pathlib import Path

from planner.cli.options import Values
from planner.cli.output import check_format
from planner.cli.progress import Progress
from planner.cli.show import show
from planner.errors import EXIT_FITS, UsageError
from planner.errors import show as shown
from planner.render.agreed import agreement_document, agreement_sheets
from planner.render.validated import report_document, validation_sheets
from planner.validation import validate
from planner.validation.against import Agreement, compare
from planner.validation.grid import MODELS, grid, quick_grid
from planner.validation.traced import run_grid

PUBLISHED, TRACED = "published", "traced"


def main(values: Values) -> int:
    """Predict every case of the reference that is asked for, and show the errors."""
    format_name = check_format(values["format"])
    against = values["against"] or PUBLISHED
    if against == TRACED:
        agreement = _against_traced(values)
        show(format_name, lambda: agreement_sheets(agreement), lambda: agreement_document(agreement))
    elif against == PUBLISHED:
        _refuse_options_of_the_trace(values)
        report = validate()
        show(format_name, lambda: validation_sheets(report), lambda: report_document(report))
    else:
        raise UsageError(f"--against {shown(against)} is not {PUBLISHED} or {TRACED}")
    return EXIT_FITS


def _refuse_options_of_the_trace(values: Values) -> None:
    for name in ("model", "quick", "out"):
        if values[name]:
            raise UsageError(f"--{name} belongs to traces: write plan validate --against {TRACED} --{name} ...")


def _against_traced(values: Values) -> Agreement:
    if values["quick"] and values["model"]:
        raise UsageError("--quick names its own models: leave out --quick or --model")
    cases = quick_grid() if values["quick"] else grid(values["model"] or MODELS)
    path = None if values["out"] is None else Path(values["out"])
    with Progress() as progress:
        traced = run_grid(cases, path, progress)
    return compare(cases, traced)
