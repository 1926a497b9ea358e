"""Published errors, and those of the share for fragmentation, as residuals: what the shipped table is made of."""

from collections.abc import Iterable, Iterator
from typing import cast

from planner.calibration import METRICS, Metric, Residual, Table, fit, kind_of
from planner.formulas.overhead import fragmentation
from planner.validation.anchors import Published
from planner.validation.checks import Check, scenario_of
from planner.validation.grid import GridCase
from planner.validation.traced import TracedFile


def table_of(checks: Iterable[Check], cases: Iterable[GridCase], traced: TracedFile) -> Table:
    """The table that ships: published values and traced capacities."""
    return fit([*residuals(checks), *capacities(cases, traced)])


def residuals(checks: Iterable[Check]) -> Iterator[Residual]:
    """One residual for every published number of a metric that calibration knows.

    A number that only bounds the prediction from below shows an error where the prediction lies under it, else none.
    """
    for check in checks:
        if check.published.metric in METRICS:
            kind = kind_of(scenario_of(check.case), "closed-form", cast("Metric", check.published.metric))
            error = measured_error(check.published, check.predicted_bytes)
            yield Residual(kind, check.case.source.id, max(error, 0.0) if check.kind == "bound" else error)


def measured_error(published: Published, predicted: int) -> float:
    """Measured / predicted - 1, from the end of the published interval that is nearer; 0 inside.

    >>> measured_error(Published("device", 100, 107), 50), measured_error(Published("device", 100, 107), 103)
    (1.0, 0.0)
    """
    nearest = min(max(predicted, published.low_bytes), published.high_bytes)
    return nearest / predicted - 1


def capacities(cases: Iterable[GridCase], traced: TracedFile) -> Iterator[Residual]:
    """How far what replays need beyond allocated bytes lies from the closed form's share for fragmentation.

    Errors are relative to that share, which small models exceed and large ones do not need. Stack and card matter less
    to it than loss and checkpoints, which they do not tell: one group. A model is the source: its cases are alike.
    """
    for case in cases:
        row = traced.rows.get(case.id)
        if row is not None and row.capacity_bytes is not None:
            kind = kind_of(case.scenario(), "closed-form", "capacity")._replace(stack="", architecture="")
            beyond = row.capacity_bytes - row.peak_bytes
            yield Residual(kind, case.model, beyond / fragmentation(row.peak_bytes) - 1)
