"""Published errors as residuals: the rows that the shipped table is made of, and who they came from."""

from collections.abc import Iterable, Iterator
from typing import cast, get_args

from planner.calibration import Metric, Residual, kind_of
from planner.validation.anchors import Published
from planner.validation.report import Check, scenario_of

METRICS: tuple[str, ...] = get_args(Metric)


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
