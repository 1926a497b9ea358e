"""A model that was measured by its first layers: the depths, what they say of the whole, and how far to trust it."""

from typing import TYPE_CHECKING

from planner.render.sheet import Cell, Column, Sheet, row
from planner.units import format_bytes

if TYPE_CHECKING:
    from planner.measure.truncation import Extrapolation
    from planner.measure.values import Measurement


def depth_sheet(found: "Extrapolation") -> Sheet:
    """One row for each depth that ran, the whole model last."""
    columns = (
        Column("layers", numeric=True),
        Column("peak phase"),
        Column("allocated", numeric=True),
        Column("reserved", numeric=True, optional=True),
        Column("seconds", numeric=True),
        Column("how"),
    )
    rows = [_row(str(run.layers), run, "measured") for run in found.runs]
    rows.append(_row(str(found.depth.layers), found.whole, "extrapolated"))
    title = f"{found.whole.scenario.model.name} is too large for this device: its first layers"
    return Sheet(title, columns, tuple(rows), rules=(len(rows) - 1,), notes=depth_notes(found))


def _row(layers: str, run: "Measurement", how: str) -> tuple[Cell, ...]:
    peak = run.peak
    reserved = None if peak is None else peak.reserved_bytes
    return row(
        (
            Cell(layers, "strong"),
            "–" if peak is None else peak.phase.replace("_", " "),
            "–" if peak is None else format_bytes(peak.allocated_bytes),
            "–" if reserved is None else format_bytes(reserved),
            "–" if run.seconds is None else f"{run.seconds:.3f}",
            Cell(how, "warn" if how == "extrapolated" else ""),
        )
    )


def depth_notes(found: "Extrapolation") -> tuple[str, ...]:
    """What the extrapolation rests on, and its error."""
    first, second = (run.layers for run in found.runs[:2])
    check = found.check
    where = f"{check.layers} layers" if check.basis == "held out" else "the whole model, in traces,"
    notes = [
        f"Each phase by a straight line through {first} and {second} layers. For {where} it gives "
        f"{format_bytes(check.extrapolated_bytes)} of {format_bytes(check.true_bytes)}: expect an error of "
        f"{found.error:+.2%} in the peak.",
        "Seconds are extrapolated likewise; the time of a real run was not taken.",
    ]
    if found.reserved_ratios is not None:
        low, high = found.reserved_ratios
        notes.append(
            "Reserved is not linear in depth: it is allocated times the deepest run's ratio; "
            f"the ratios lie from {low:.3f} to {high:.3f}."
        )
    return tuple(notes)


def depth_document(found: "Extrapolation") -> dict[str, object]:
    """The same for scripts."""
    return {
        "layers": found.depth.layers,
        "prefix": found.depth.prefix,
        "period": found.depth.period,
        "measured_layers": [run.layers for run in found.runs],
        "measured_allocated_bytes": [run.peak.allocated_bytes if run.peak else None for run in found.runs],
        "measured_seconds": [run.seconds for run in found.runs],
        "check": found.check._asdict(),
        "expected_error": found.error,
        "reserved_ratios": None if found.reserved_ratios is None else list(found.reserved_ratios),
    }
