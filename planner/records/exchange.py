"""Records between machines, as JSON Lines: one record a line, each with its schema and the digest of its content."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.errors import BrokenInput
from planner.records.record import Record, read_record, record_text

if TYPE_CHECKING:
    from planner.records.store import Store

LONGEST = 4_000_000
"""Bytes of one line, a thousand times what a record has."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of the lines: how many records were new, how many were known, and which lines are no records."""

    new: int
    known: int
    refused: tuple[tuple[int, str], ...]
    """Line number, counted from 1, and why."""


def export_lines(records: Iterable[Record]) -> str:
    """Records as JSON Lines."""
    return "".join(f"{record_text(record)}\n" for record in records)


def import_lines(content: bytes, store: "Store") -> Imported:
    """Store every line that is a record, all in one transaction; the others are named and harm none.

    Raise ``StoreError`` where the store takes none.
    """
    found: list[Record] = []
    refused: list[tuple[int, str]] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            try:
                found.append(_record(line))
            except BrokenInput as error:
                refused.append((number, str(error)))
    new = store.add_all(found) if found else 0
    return Imported(new, len(found) - new, tuple(refused))


def _record(line: bytes) -> Record:
    if len(line) > LONGEST:
        raise BrokenInput(f"{len(line):,} bytes are no measurement")
    try:
        return read_record(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise BrokenInput("not UTF-8 text") from None
