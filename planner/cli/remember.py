"""Measured runs go into the user's store; that they cannot is told, and spoils nothing else."""

from collections.abc import Iterable

from planner.cli.options import Values
from planner.cli.output import note
from planner.errors import PlannerError
from planner.records import Record, default_store


def remember(values: Values, records: Iterable[Record]) -> None:
    """Store records, unless ``--no-store``; the answer is printed however that goes."""
    if values["no_store"]:
        return
    try:
        default_store(note).add_all(records)
    except PlannerError as error:
        note(f"not stored: {error}")
