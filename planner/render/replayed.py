"""A recorded memory history beside its replays: as a table, and for scripts."""

from typing import TYPE_CHECKING

from planner.render.sheet import Cell, Column, Sheet, printable, row
from planner.units import format_bytes

if TYPE_CHECKING:
    from planner.allocator.whatif import Tried, WhatIf

CLOSE = 0.03
"""A replay should come so near to the reserved bytes of its recording."""


def replayed_sheet(found: "WhatIf", name: str) -> Sheet:
    """What was recorded, then each choice of settings; the first is the recording's own, or what was asked for."""
    columns = (
        Column("PYTORCH_ALLOC_CONF"),
        Column("asked for", numeric=True, optional=True),
        Column("allocated", numeric=True),
        Column("reserved", numeric=True),
        Column("least capacity", numeric=True),
    )
    own = row(
        (Cell("as recorded", "strong"), format_bytes(found.requested), "–", format_bytes(found.recorded.reserved), "–")
    )
    return Sheet(
        f"{printable(name)}: {len(found.recorded.trace.events):,} allocations and releases",
        columns,
        (own, *map(_row, found.tried)),
        rules=(1,),
        notes=_notes(found),
    )


def _row(tried: "Tried") -> tuple[Cell, ...]:
    run = tried.replay
    counts = (run.requested, run.allocated, run.reserved, tried.capacity)
    return row((tried.text or "(defaults)", *map(format_bytes, counts)))


def _notes(found: "WhatIf") -> tuple[str, ...]:
    notes = []
    off = difference(found)
    if off is not None and abs(off) > CLOSE:
        notes.append(
            f"The first replay reserves {off:+.1%} against the recording: it may have run under other settings "
            "(--alloc-conf TEXT), or begun before its history."
        )
    if found.recorded.out_of_memory:
        notes.append(
            f"Requests that failed while it recorded: {found.recorded.out_of_memory}. What would have come after is "
            "not known."
        )
    notes.append(
        "A history holds what was asked for, not what was handed out: allocated bytes are the replay's. A device must "
        "have the least capacity free for the allocator, beside its context and other processes."
    )
    return tuple(notes)


def difference(found: "WhatIf") -> float | None:
    """How far the first replay reserves above (or below) its recording, as a ratio."""
    recorded = found.recorded.reserved
    return found.tried[0].replay.reserved / recorded - 1 if recorded else None


def replayed_document(found: "WhatIf", name: str) -> dict[str, object]:
    """The same for scripts."""
    return {
        "schema": 1,
        "snapshot": name,
        "recorded": {
            "events": len(found.recorded.trace.events),
            "requested_bytes": found.requested,
            "reserved_bytes": found.recorded.reserved,
            "out_of_memory": found.recorded.out_of_memory,
            "expandable_segments": found.recorded.expandable,
        },
        "difference": difference(found),
        "replayed": [
            {
                "alloc_conf": tried.text,
                "requested_bytes": tried.replay.requested,
                "allocated_bytes": tried.replay.allocated,
                "reserved_bytes": tried.replay.reserved,
                "fragmentation_bytes": tried.replay.fragmentation,
                "segments": tried.replay.segments,
                "least_capacity_bytes": tried.capacity,
            }
            for tried in found.tried
        ],
    }
