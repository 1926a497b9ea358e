"""``plan validate``: predictions against what others measured, in bytes or seconds, or against traces."""

from pathlib import Path

from planner.cli.options import Values
from planner.cli.output import check_format
from planner.cli.progress import Progress
from planner.cli.show import show
from planner.errors import EXIT_FITS, UsageError
from planner.errors import show as shown
from planner.render.agreed import agreement_document, agreement_sheets
from planner.render.timed import timed_document, timed_sheets
from planner.render.validated import report_document, validation_sheets
from planner.validation import Report, validate_held_out, validate_traced
from planner.validation.against import Agreement, compare
from planner.validation.grid import MODELS, GridCase, grid, quick_grid
from planner.validation.sharded import MODELS as SHARDED_MODELS
from planner.validation.sharded import sharded_grid
from planner.validation.time_record import stored
from planner.validation.timed_rows import counted, timed_rows
from planner.validation.timing import by_source, errors_of
from planner.validation.traced import run_grid

PUBLISHED, TRACED, SHARDED, TIMES, CLOSED_FORM = "published", "traced", "sharded", "times", "closed-form"
OF_PUBLISHED, OF_TRACED = ("source", "evidence"), ("model", "quick", "out")


def main(values: Values) -> int:
    """Predict every case of the reference that is asked for, and show the errors."""
    format_name = check_format(values["format"])
    against = values["against"] or PUBLISHED
    if against in (TRACED, SHARDED):
        _refuse(values, OF_PUBLISHED, f"published measurements: leave out --against {against}")
        agreement = _against_traced(values, _sharded_cases(values) if against == SHARDED else _cases(values))
        show(format_name, lambda: agreement_sheets(agreement), lambda: agreement_document(agreement))
    elif against == PUBLISHED:
        report = _published(values)
        show(format_name, lambda: validation_sheets(report), lambda: report_document(report))
    elif against == TIMES:
        for names in (OF_PUBLISHED, OF_TRACED):
            _refuse(values, names, f"measurements of memory: leave out --against {TIMES}")
        _times(format_name)
    else:
        raise UsageError(f"--against {shown(against)} is not {PUBLISHED}, {TRACED}, {SHARDED} or {TIMES}")
    return EXIT_FITS


def _times(format_name: str) -> None:
    scores, held_out = by_source(errors_of()), stored("held_out")
    left = tuple(counted(timed_rows()[1]))
    show(format_name, lambda: timed_sheets(scores, held_out, left), lambda: timed_document(scores, held_out, left))


def _published(values: Values) -> Report:
    _refuse(values, OF_TRACED, f"traces: write plan validate --against {TRACED}")
    sources, evidence = values["source"] or (), values["evidence"] or CLOSED_FORM
    if evidence == TRACED:
        with Progress() as progress:
            return validate_traced(sources=sources, tell=progress.bar)
    if evidence != CLOSED_FORM:
        raise UsageError(f"--evidence {shown(evidence)} is not {CLOSED_FORM} or {TRACED}")
    return validate_held_out(sources)


def _refuse(values: Values, names: tuple[str, ...], where: str) -> None:
    for name in names:
        if values[name]:
            raise UsageError(f"--{name} belongs to {where}")


def _cases(values: Values) -> tuple[GridCase, ...]:
    if values["quick"] and values["model"]:
        raise UsageError("--quick names its own models: leave out --quick or --model")
    return quick_grid() if values["quick"] else grid(values["model"] or MODELS)


def _sharded_cases(values: Values) -> tuple[GridCase, ...]:
    if values["quick"]:
        raise UsageError(f"--quick belongs to --against {TRACED}: name a model with --model")
    return sharded_grid(values["model"] or SHARDED_MODELS)


def _against_traced(values: Values, cases: tuple[GridCase, ...]) -> Agreement:
    path = None if values["out"] is None else Path(values["out"])
    with Progress() as progress:
        traced = run_grid(cases, path, progress)
    return compare(cases, traced)
