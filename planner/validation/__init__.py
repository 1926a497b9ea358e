"""Published measurements held against our predictions: ``validate() -> Report``.

Anchors are facts that other people measured (``tests/anchors/*.toml``, shipped in the wheel). Nothing
here is fitted: a report says how far predictions lie from what was printed, by source and by metric,
and counts what we do not model instead of leaving it out.
"""

from planner.validation.anchors import AnchorFile, Case, Device, Published, Source, Timed, Unmodelled, load_anchors
from planner.validation.checks import Check, Judged
from planner.validation.heldout import Held, held_by_source, validate_held_out
from planner.validation.report import Group, Report, validate, validate_traced
from planner.validation.several import Far, Several
from planner.validation.shared_spare import SpareScore
from planner.validation.summary import Score, Table, TimedRows, Unscored

__all__ = [
    "AnchorFile",
    "Case",
    "Check",
    "Device",
    "Far",
    "Group",
    "Held",
    "Judged",
    "Published",
    "Report",
    "Score",
    "Several",
    "Source",
    "SpareScore",
    "Table",
    "Timed",
    "TimedRows",
    "Unmodelled",
    "Unscored",
    "held_by_source",
    "load_anchors",
    "validate",
    "validate_held_out",
    "validate_traced",
]
