"""Predicted beside measured, phase by phase: as a table, and for scripts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.render import words
from planner.render.machine import settings_of
from planner.render.sheet import Cell, Column, Sheet, Tone, row
from planner.units import format_bytes

if TYPE_CHECKING:
    from planner.measure import Comparison, Measurement, PhasePeak, Prediction

CLOSE = 0.01
"""Differences up to this are as they should be; the traced estimator promises it."""

OUTCOMES = {
    "out_of_memory": "ran out of memory",
    "timed_out": "was stopped",
    "killed": "was killed",
    "failed": "failed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that ``plan measure`` found out."""

    measurement: "Measurement"
    prediction: "Prediction"
    rows: tuple["Comparison", ...]
    peak: "Comparison | None"
    notes: tuple[str, ...]


def measured_sheet(found: Measured) -> Sheet:
    """One row a phase; the peak last."""
    reserved = any(row.measured and row.measured.reserved_bytes is not None for row in found.rows)
    columns = (
        Column("step"),
        Column("phase"),
        Column("predicted", numeric=True),
        Column("measured", numeric=True),
        Column("difference", numeric=True),
        *((Column("reserved", numeric=True), Column("device", numeric=True, optional=True)) if reserved else ()),
    )
    rows = [_row(one.step, words.phase(one.phase), one, reserved=reserved) for one in found.rows]
    rules = [index for index in range(1, len(rows)) if found.rows[index].step != found.rows[index - 1].step]
    if found.peak is not None:
        rules.append(len(rows))
        rows.append(_row("peak", words.phase(found.peak.phase), found.peak, reserved=reserved))
    return Sheet(
        _title(found.measurement), columns, tuple(rows), rules=tuple(rules), notes=(*_notes(found), *found.notes)
    )


def _row(name: str, phase: str, one: "Comparison", *, reserved: bool) -> tuple[Cell, ...]:
    cells: list[str | Cell] = [
        Cell(name, "strong" if name == "peak" else ""),
        phase,
        format_bytes(one.predicted.total) if one.predicted else "–",
        format_bytes(one.measured.allocated_bytes) if one.measured else "–",
        _difference(one.difference),
    ]
    return row([*cells, *(_reserved(one.measured) if reserved else ())])


def _difference(ratio: float | None) -> Cell:
    if ratio is None:
        return Cell("–")
    tone: Tone = "good" if abs(ratio) <= CLOSE else "warn"
    return Cell(f"{ratio:+.2%}", tone)


def _reserved(peak: "PhasePeak | None") -> tuple[str, str]:
    counts = (peak.reserved_bytes, peak.device_bytes) if peak else (None, None)
    first, second = ("–" if count is None else format_bytes(count) for count in counts)
    return first, second


def _title(measurement: "Measurement") -> str:
    scenario, train = measurement.scenario, measurement.scenario.train
    device = measurement.device.name if measurement.device else scenario.cluster.gpu.name
    depth = f", first {measurement.layers} layers" if measurement.layers else ""
    shape = f"{train.micro_batch_size} × {train.seq_len} tokens"
    return f"{scenario.model.name} on {device}: {train.method}{depth}, {shape}"


def _notes(found: Measured) -> list[str]:
    measurement = found.measurement
    notes = []
    if measurement.outcome != "done":
        notes.append(f"The run {OUTCOMES[measurement.outcome]} {_where(measurement)}: {measurement.detail}.")
    if measurement.steps:
        seconds = [f"{step.seconds:.2f}" for step in measurement.steps]
        notes.append(f"Seconds of each step: {', '.join(seconds)}.")
    notes.append(f"Allocated bytes, predicted by {found.prediction.evidence} evidence; weights are random.")
    notes.append(", ".join(f"{name} {version}" for name, version in measurement.versions.items()))
    return [note for note in notes if note]


def _where(measurement: "Measurement") -> str:
    place = measurement.died_in
    if place is None:
        return "before it began"
    if place.phase == "load":
        return "while the model was loaded"
    return f"in {words.phase(place.phase)} of step {place.step + 1}"


def measured_document(found: Measured) -> dict[str, object]:
    """The same for scripts."""
    measurement = found.measurement
    scenario = measurement.scenario
    return {
        "schema": 1,
        "model": scenario.model.name,
        "method": scenario.train.method,
        "stack": scenario.stack.name,
        "settings": {name: _plain(getattr(scenario.train, name)) for name in settings_of(scenario.train)},
        "layers": measurement.layers,
        "device": None if measurement.device is None else measurement.device._asdict(),
        "versions": dict(measurement.versions),
        "outcome": measurement.outcome,
        "died_in": None if measurement.died_in is None else measurement.died_in._asdict(),
        "detail": measurement.detail,
        "owners": dict(measurement.owners),
        "load": None if measurement.load is None else _peak(measurement.load),
        "steps": [
            {"number": step.number, "seconds": step.seconds, "phases": [_peak(peak) for peak in step.phases]}
            for step in measurement.steps
        ],
        "predicted": _predicted(found.prediction),
        "comparison": [_compared(one) for one in found.rows],
        "peak": None if found.peak is None else _compared(found.peak),
        "notes": list(found.notes),
    }


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _peak(peak: "PhasePeak") -> dict[str, object]:
    facts = peak._asdict()
    return {"name": facts.pop("phase"), **facts}


def _predicted(prediction: "Prediction") -> dict[str, object]:
    def phases(step: object) -> list[dict[str, object]]:
        return [
            {"name": name, "allocated_bytes": memory.total, "owners": memory._asdict()}
            for name, memory in getattr(prediction, str(step)).items()
        ]

    return {
        "evidence": prediction.evidence,
        "load": {"allocated_bytes": prediction.load.total, "owners": prediction.load._asdict()},
        "first": phases("first"),
        "steady": phases("steady"),
    }


def _compared(one: "Comparison") -> dict[str, object]:
    return {
        "step": one.step,
        "phase": one.phase,
        "predicted_bytes": one.predicted.total if one.predicted else None,
        "measured_bytes": one.measured.allocated_bytes if one.measured else None,
        "difference": one.difference,
    }
