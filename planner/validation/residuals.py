"""Published errors, and those of the share for fragmentation, as residuals: what the shipped table is made of."""

from collections.abc import Iterable, Iterator
from typing import cast

from planner.calibration import METRICS, Metric, Residual, Table, fit, kind_of
from planner.formulas.overhead import fragmentation
from planner.validation.anchors import Published
from planner.validation.grid import GridCase
from planner.validation.report import Check, scenario_of
from planner.validation.traced import TracedFile


def table_of(checks: Iterable[Check], cases: Iterable[GridCase], traced: TracedFile) -> Table:
    """The table that ships: published values and traced capacities."""
    return fit([*residuals(checks), *capacities(cases, traced)])


def residuals(checks: Iterable[Check]) -> Iterator[Residual]:
    """One residual for every published value of a metric that calibration knows; bounds say too little."""
    for check in checks:
        if check.kind == "value" and check.published.metric in METRICS:
            kind = kind_of(scenario_of(check.case), "closed-form", cast("Metric", check.published.metric))
            yield Residual(kind, check.case.source.id, measured_error(check.published, check.predicted_bytes))


def measured_error(published: Published, predicted: int) -> float:
    """Measured / predicted - 1, from the end of the published interval that is nearer; 0 inside.

    >>> measured_error(Published("device", 100, 107), 50), measured_error(Published("device", 100, 107), 103)
    (1.0, 0.0)
    """
    nearest = min(max(predicted, published.low_bytes), published.high_bytes)
    return nearest / predicted - 1


def capacities(cases: Iterable[GridCase], traced: TracedFile) -> Iterator[Residual]:
    """How far replayed capacities lie from allocated bytes with the closed form's share for fragmentation.

    Here a model is the source: its cases resemble each other.
    """
    for case in cases:
        row = traced.rows.get(case.id)
        if row is not None and row.capacity_bytes is not None:
            kind = kind_of(case.scenario(), "closed-form", "capacity")
            ours = row.peak_bytes + fragmentation(row.peak_bytes)
            yield Residual(kind, case.model, row.capacity_bytes / ours - 1)
