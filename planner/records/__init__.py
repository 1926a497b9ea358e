"""Measured runs: as frozen values, as JSON, and in a store that survives its writers.

Names load when they are used: who has no measurements pays nothing for them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.records.record import (
        DiedIn,
        Environment,
        Limits,
        Peaks,
        PhasePeaks,
        RankPeaks,
        Record,
        RunDevice,
        architecture_of,
        document_of,
        now,
        read_record,
        record_document,
        record_from,
        record_text,
    )
    from planner.records.scenario import scenario_document, scenario_from
    from planner.records.store import Store, StoreError, default_store

_HOMES = {
    "planner.records.record": (
        "DiedIn",
        "Environment",
        "Limits",
        "Peaks",
        "PhasePeaks",
        "RankPeaks",
        "Record",
        "RunDevice",
        "architecture_of",
        "document_of",
        "now",
        "read_record",
        "record_document",
        "record_from",
        "record_text",
    ),
    "planner.records.scenario": ("scenario_document", "scenario_from"),
    "planner.records.store": ("Store", "StoreError", "default_store"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "DiedIn",
    "Environment",
    "Limits",
    "Peaks",
    "PhasePeaks",
    "RankPeaks",
    "Record",
    "RunDevice",
    "Store",
    "StoreError",
    "architecture_of",
    "default_store",
    "document_of",
    "now",
    "read_record",
    "record_document",
    "record_from",
    "record_text",
    "scenario_document",
    "scenario_from",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load a public name from the module that holds it."""
        if name not in _HOME:
            raise AttributeError(f"module 'planner.records' has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)
