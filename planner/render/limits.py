"""A limit as it was predicted and as it was found, with every run of the search."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from planner.render.sheet import Cell, Column, Sheet, Tone, row
from planner.units import format_bytes

if TYPE_CHECKING:
    from planner.measure.limit import Limit
    from planner.measure.search import Probe

NAMES = {"micro_batch_size": "batch", "seq_len": "length"}
ENDS: dict[str, tuple[str, Tone]] = {
    "done": ("ran", "good"),
    "out_of_memory": ("out of memory", "bad"),
    "timed_out": ("timed out", "warn"),
    "killed": ("killed", "warn"),
    "failed": ("failed", "warn"),
}


def limit_sheets(limit: "Limit") -> list[Sheet]:
    """The answer first, then the runs in their order."""
    return [_answer(limit), _probes(limit)]


def _answer(limit: "Limit") -> Sheet:
    name, found = NAMES[limit.dimension], limit.found
    other = "seq_len" if limit.dimension == "micro_batch_size" else "micro_batch_size"
    train = limit.scenario.train
    title = (
        f"{limit.scenario.model.name} on {limit.device.name}: {train.method}, largest {name} "
        f"at {NAMES[other]} {getattr(train, other)}"
    )
    rows = [
        row((Cell("largest that ran", "strong"), _size(found.largest), "measured")),
        row(("smallest that ran out of memory", _size(found.failed), "measured")),
        *(row(("largest that fits", _size(size), kind)) for kind, size in limit.predicted.items()),
    ]
    return Sheet(title, (Column(""), Column(name, numeric=True), Column("evidence")), tuple(rows), notes=_notes(limit))


def _notes(limit: "Limit") -> tuple[str, ...]:
    return tuple(_told(limit))


def _told(limit: "Limit") -> Iterator[str]:
    found = limit.found
    if found.stopped:
        yield f"The search stopped: {found.stopped}. The limit lies between what is known above."
    elif found.largest == found.sizes.highest:
        yield f"{found.sizes.highest} is the most that was tried, and it ran: the limit is not memory."
    else:
        yield "Both sides of the limit were run twice."
    yield f"Predictions are held against {format_bytes(limit.usable_bytes)}{_of(limit)}."
    if limit.device.kind == "cpu":
        yield "The processor's limit is of tensors alone; the closed form is of a GPU."


def _of(limit: "Limit") -> str:
    return ", the pretended size" if limit.cap_bytes is not None else ", the whole device"


def _size(size: int | None) -> str:
    return "none" if size is None else str(size)


def _probes(limit: "Limit") -> Sheet:
    columns = (Column(NAMES[limit.dimension], numeric=True), Column("end"), Column("allocated", numeric=True))
    return Sheet("Runs in their order", columns, tuple(map(_probe, limit.found.probes)))


def _probe(probe: "Probe") -> tuple[Cell, ...]:
    peak = "–" if probe.peak_bytes is None else format_bytes(probe.peak_bytes)
    return row((str(probe.size), Cell(*ENDS[probe.outcome]), peak))


def limit_document(limit: "Limit") -> dict[str, object]:
    """The same for scripts."""
    found = limit.found
    return {
        "schema": 1,
        "model": limit.scenario.model.name,
        "method": limit.scenario.train.method,
        "device": limit.device._asdict(),
        "dimension": limit.dimension,
        "step": found.sizes.step,
        "cap_bytes": limit.cap_bytes,
        "usable_bytes": limit.usable_bytes,
        "largest_ran": found.largest,
        "smallest_failed": found.failed,
        "exact": found.exact,
        "stopped": found.stopped,
        "predicted": dict(limit.predicted),
        "probes": [probe._asdict() for probe in found.probes],
    }
