"""A matrix when it has ended: predicted beside measured for each case, errors by metric, and what did not run."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from planner.measure.summary import EVIDENCE, Deviation, deviations, errors_of, label_of, latest, predicted_in
from planner.render import words
from planner.render.limits import ENDS
from planner.render.sheet import Cell, Column, Sheet, row

if TYPE_CHECKING:
    from planner.measure.series import Row, Series
    from planner.records import Record

# ---------------------------------------------------------------- tables


def matrix_sheets(series: "Series", title: str) -> list[Sheet]:
    """Runs, limits, errors, and cases that did not run; only those that there are."""
    steps = [(one, record) for one in series.rows for record in latest(one) if record.kind == "steps"]
    limits = [(one, record) for one in series.rows for record in one.records[-1:] if record.kind == "limit"]
    sheets = [_steps_sheet(steps, f"{title}: {_counts(series)}")]
    if limits:
        sheets.append(_limits_sheet(limits))
    if found := deviations(series):
        sheets.append(_errors_sheet(found))
    if series.skipped:
        sheets.append(_skipped_sheet(series))
    return sheets


def _counts(series: "Series") -> str:
    fresh = sum(one.fresh for one in series.rows)
    parts = [f"{len(series.rows)} finished, {fresh} of them now"]
    if series.skipped:
        parts.append(f"{len(series.skipped)} do not run here")
    if series.left:
        parts.append(
            f"{len(series.left)} left ({'the file cannot be written' if series.unwritten else series.stopped})"
        )
    return "; ".join(parts)


def _steps_sheet(found: Sequence[tuple["Row", "Record"]], title: str) -> Sheet:
    columns = (
        Column("case", wraps=True),
        Column("end"),
        Column("closed form", numeric=True, optional=True),
        Column("traced", numeric=True),
        Column("measured", numeric=True),
        Column("error", numeric=True),
        Column("reserved", numeric=True, optional=True),
        Column("seconds", numeric=True, optional=True),
    )
    rows = tuple(
        row(
            (
                label_of(one, record),
                Cell(*ENDS[record.outcome]),
                *(words.amount(predicted_in(record, evidence, "allocated")) for evidence in EVIDENCE),
                words.amount(record.peak.allocated_bytes),
                _traced_error(record),
                words.amount(record.peak.reserved_bytes),
                "–" if record.steady_seconds is None else f"{record.steady_seconds:.3f}",
            )
        )
        for one, record in found
    )
    return Sheet(title, columns, rows, notes=tuple(_about(found)))


def _about(found: Iterable[tuple["Row", "Record"]]) -> Iterator[str]:
    yield "Allocated bytes at the peak; the error is that of the trace."
    if any(record.device.kind == "cpu" for _, record in found):
        yield "Traces are of the processor, closed forms of a GPU, whose kernels and workspaces differ."


def _traced_error(record: "Record") -> str:
    errors = [error for evidence, metric, error in errors_of(record) if (evidence, metric) == ("traced", "allocated")]
    return _percent(errors[0]) if errors else "–"


def _percent(ratio: float) -> str:
    """An error with its sign, but never ``-0.00%``."""
    return f"{round(ratio, 4) + 0.0:+.2%}"


def _limits_sheet(found: Iterable[tuple["Row", "Record"]]) -> Sheet:
    columns = (
        Column("case", wraps=True),
        *(Column(kind.replace("-", " "), numeric=True) for kind in EVIDENCE),
        Column("ran", numeric=True),
        Column("failed", numeric=True),
        Column("end", wraps=True),
    )
    rows = []
    for one, record in found:
        limits = record.limits
        unit = limits.unit if limits else ""
        sizes = [predicted_in(record, evidence, unit) for evidence in EVIDENCE]
        sizes += [limits.largest_ran, limits.smallest_failed] if limits else [None, None]
        cells = ["–" if size is None else str(size) for size in sizes]
        rows.append(row((one.planned.case.label, *cells, record.detail or "exact")))
    return Sheet("Limits: the largest that fits, predicted and found", columns, tuple(rows))


def _errors_sheet(found: Iterable[Deviation]) -> Sheet:
    columns = (
        Column("evidence"),
        Column("metric"),
        Column("n", numeric=True),
        Column("median", numeric=True),
        Column("worst", numeric=True),
        Column("worst case", optional=True, wraps=True),
    )
    rows = tuple(
        row((one.evidence, one.metric, str(one.n), f"{one.median:.2%}", _percent(one.worst), one.case)) for one in found
    )
    return Sheet("Predicted against measured", columns, rows)


def _skipped_sheet(series: "Series") -> Sheet:
    columns = (Column("case", wraps=True), Column("why", wraps=True))
    rows = tuple(row((one.case.label, one.reason)) for one in series.skipped)
    return Sheet("Cases that do not run here", columns, rows)


# ---------------------------------------------------------------- document


def matrix_document(series: "Series") -> dict[str, object]:
    """The same for scripts; errors are ratios, whole records are in the file of ``--out``."""
    return {
        "schema": 1,
        "stopped": series.stopped,
        "finished": [_finished(one) for one in series.rows],
        "skipped": [{"case": one.case.label, "why": one.reason} for one in series.skipped],
        "left": [one.case.label for one in series.left],
        "errors": [
            {
                "evidence": one.evidence,
                "metric": one.metric,
                "n": one.n,
                "median": one.median,
                "worst": one.worst,
                "case": one.case,
            }
            for one in deviations(series)
        ],
    }


def _finished(one: "Row") -> dict[str, object]:
    return {
        "case": one.planned.case.label,
        "block": one.planned.case.block,
        "kind": one.planned.case.kind,
        "fresh": one.fresh,
        "runs": [_run(record) for record in latest(one)],
    }


def _run(record: "Record") -> dict[str, object]:
    limits = record.limits
    return {
        "id": record.id,
        "layers": record.layers,
        "outcome": record.outcome,
        "allocated_bytes": record.peak.allocated_bytes,
        "reserved_bytes": record.peak.reserved_bytes,
        "device_bytes": record.peak.device_bytes,
        "seconds": record.steady_seconds,
        "predicted": {kind: dict(metrics) for kind, metrics in record.predicted.items()},
        "largest_ran": limits.largest_ran if limits else None,
        "smallest_failed": limits.smallest_failed if limits else None,
    }
