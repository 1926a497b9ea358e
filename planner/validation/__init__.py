"""Published measurements held against our predictions: ``validate() -> Report``.

Anchors are facts that other people measured (``tests/anchors/*.toml``, shipped in the wheel). Nothing
here is fitted: a report says how far predictions lie from what was printed, by source and by metric,
and counts what we do not model instead of leaving it out.
"""

from planner.validation.anchors import AnchorFile, Case, Published, Source, Unmodelled, load_anchors
from planner.validation.report import Check, Group, Judged, Report, Score, Table, Unscored, validate

__all__ = [
    "AnchorFile",
    "Case",
    "Check",
    "Group",
    "Judged",
    "Published",
    "Report",
    "Score",
    "Source",
    "Table",
    "Unmodelled",
    "Unscored",
    "load_anchors",
    "validate",
]
