"""Measurements -> correction and interval: how far from the truth an estimate may be, and where that is known from.

``Calibration(table, runs).calibrated(estimate, scenario)`` sets ``low_bytes`` and ``high_bytes``, which rest on this
and on nothing else. The table is made from published runs (``tests/anchors``); runs are the user's own. Without torch.
"""

from planner.calibration.conformal import COVERAGE, rows_for
from planner.calibration.interval import STATED, Calibration
from planner.calibration.own import Query, Run, Runs
from planner.calibration.published import published_table
from planner.calibration.residuals import METRICS, Kind, Metric, Residual, Spread, Table, fit, kind_of
from planner.calibration.stored import finder
from planner.calibration.told import words_of

__all__ = [
    "COVERAGE",
    "METRICS",
    "STATED",
    "Calibration",
    "Kind",
    "Metric",
    "Query",
    "Residual",
    "Run",
    "Runs",
    "Spread",
    "Table",
    "finder",
    "fit",
    "kind_of",
    "published_table",
    "rows_for",
    "words_of",
]
