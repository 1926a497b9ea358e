"""Predicted beside measured, phase by phase: as a table, and for scripts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from planner.render import words
from planner.render.machine import settings_of
from planner.render.ranks import ranks_sheet
from planner.render.sheet import Cell, Column, Sheet, printable, row
from planner.result import Estimate
from planner.spec import MOMENTS
from planner.units import format_bytes

if TYPE_CHECKING:
    from planner.measure import Comparison, Measurement, PhasePeak, Prediction
    from planner.measure.values import Metric, Step

OUTCOMES = {
    "out_of_memory": "ran out of memory",
    "timed_out": "was stopped",
    "killed": "was killed",
    "failed": "failed",
}


HEADINGS: Mapping["Metric", str] = {"reserved": "Reserved by the caching allocator", "device": "In use on the device"}
"""Tables beside that of allocated bytes, which has the title of the whole."""

COUNTED: tuple["Metric", ...] = ("allocated", "reserved", "device")

ABOUT_GLOO = (
    "Ranks of processors talk by gloo, whose copies are left out: NCCL has none in the allocator. The table of phases "
    "is of one rank, and seconds are those of processes that share this machine."
)

ABOUT_CPU = (
    "No CUDA device: this is the processor's allocator, the bytes of tensors with the CPU's kernels. It shows that the "
    "step runs and that the trace counts its tensors; it does not show CUDA's kernels, its caching allocator, its "
    "context, or a GPU's speed (the profiler that counts slows the steps down)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that ``plan measure`` found out. ``closed``: the closed form of the same scenario, where there is one."""

    measurement: "Measurement"
    prediction: "Prediction"
    rows: tuple["Comparison", ...]
    peak: "Comparison | None"
    notes: tuple[str, ...]
    closed: Estimate | None = None


def measured_sheets(found: Measured) -> list[Sheet]:
    """A table for each way of counting that the device has: one row a phase, the peak last."""
    counted = [metric for metric in HEADINGS if any(one.measured and one.measured.of(metric) for one in found.rows)]
    sheets = [_sheet(found, _title(found.measurement), "allocated")]
    sheets += [_sheet(found, HEADINGS[metric], metric) for metric in counted]
    sheets += [_ranks(found.measurement)] if found.measurement.ranks else []
    return [*sheets[:-1], replace(sheets[-1], notes=(*sheets[-1].notes, *_notes(found), *found.notes))]


def _ranks(measurement: "Measurement") -> Sheet:
    return ranks_sheet(
        [
            (number, [part.peak.of(metric) if part.peak else None for metric in COUNTED], part.owners, part.seconds)
            for number, part in enumerate(measurement.ranks)
        ]
    )


def _sheet(found: Measured, title: str, metric: "Metric") -> Sheet:
    columns = (
        Column("step"),
        Column("phase"),
        Column("predicted", numeric=True),
        Column("measured", numeric=True),
        Column("difference", numeric=True),
    )
    rows = [_row("after" if one.phase in MOMENTS else one.step, one, metric) for one in found.rows]
    rules = [index for index in range(1, len(rows)) if found.rows[index].step != found.rows[index - 1].step]
    if found.peak is not None:
        rules.append(len(rows))
        rows.append(_row("peak", found.peak, metric))
    return Sheet(title, columns, tuple(rows), rules=tuple(rules))


def _row(name: str, one: "Comparison", metric: "Metric") -> tuple[Cell, ...]:
    return row(
        (
            Cell(name, "strong" if name == "peak" else ""),
            words.phase(one.phase) if name != "peak" or metric == "allocated" else "",
            *(words.amount(peak.of(metric) if peak else None) for peak in (one.predicted, one.measured)),
            words.difference(one.difference_in(metric)),
        )
    )


def _title(measurement: "Measurement") -> str:
    scenario, train = measurement.scenario, measurement.scenario.train
    device = measurement.device.name if measurement.device else scenario.cluster.gpu.name
    depth = f", first {measurement.layers} layers" if measurement.layers else ""
    shape = f"{train.micro_batch_size} × {train.seq_len} tokens"
    ranks = f", {train.sharding} on {len(measurement.ranks)} ranks" if measurement.ranks else ""
    return f"{scenario.model.name} on {device}: {train.method}{ranks}{depth}, {shape}"


def _notes(found: Measured) -> list[str]:
    """How it ended, how long it took, what else is known of the device, and what it ran with."""
    measurement = found.measurement
    notes = []
    if measurement.outcome != "done":
        notes.append(f"The run {OUTCOMES[measurement.outcome]} {_where(measurement)}: {measurement.detail}.")
    elif measurement.detail:
        notes.append(f"The run is whole: {measurement.detail}.")
    if measurement.ranks and measurement.outcome == "done":
        notes.append(f"The phases are those of rank {measurement.rank}, the fullest of {len(measurement.ranks)}.")
    elif measurement.ranks:
        notes.append(f"The phases are those of rank {measurement.rank}.")
    notes += [*_time(measurement), *_room(measurement), *_predicted_sizes(found)]
    if measurement.device is not None and measurement.device.kind == "cpu":
        notes += [ABOUT_CPU, *([ABOUT_GLOO] if measurement.ranks else [])]
    notes.append("Weights are random, and so are the tokens: bytes depend on neither.")
    notes.append(", ".join(f"{name} {version}" for name, version in measurement.versions.items()))
    notes.append(_surroundings(measurement))
    return [note for note in notes if note]


def _time(measurement: "Measurement") -> Iterator[str]:
    seconds = [f"{step.seconds:.2f}" for step in measurement.steps]
    if len(seconds) > SECONDS_SHOWN:
        seconds = [*seconds[:SECONDS_SHOWN], "..."]
    if seconds:
        yield f"Seconds of each step: {', '.join(seconds)}."
    if measurement.seconds is not None:
        rate = measurement.tokens_per_second
        tokens = "" if rate is None else f", {rate:,.0f} tokens a second"
        left_out = f" after {measurement.warmup} of warm-up" if measurement.warmup else ""
        yield f"A steady step{left_out}: {measurement.seconds:.3f} s in the median{tokens}."


SECONDS_SHOWN = 8
"""Steps whose seconds are printed; JSON has all."""


def _room(measurement: "Measurement") -> Iterator[str]:
    """What belongs to whom on the device, and in main memory."""
    room = measurement.room
    if room is not None and room.others_bytes is not None:
        yield (
            f"Before the run {format_bytes(room.others_bytes)} of the device were in use by others, which are "
            f"subtracted; the context took {format_bytes(room.context_bytes)}."
        )
    elif room is not None:
        yield (
            f"The driver does not say what others use: the {format_bytes(room.context_bytes)} that were in use before "
            "anything was allocated count as this process' own."
        )
    if measurement.cap_bytes is not None:
        yield f"The device was made to look like one of {format_bytes(measurement.cap_bytes)}."
    if measurement.host_bytes is not None:
        yield f"Main memory of the process: {format_bytes(measurement.host_bytes)} at most."
    if measurement.snapshot is not None:
        yield f"Memory history: {printable(measurement.snapshot)}; plan trace --replay reads it."
    if measurement.snapshot_error:
        yield f"The memory history could not be written: {printable(measurement.snapshot_error)}."


def _predicted_sizes(found: Measured) -> Iterator[str]:
    yield f"Predicted by {found.prediction.evidence} evidence, of the device that ran."
    if found.prediction.required_bytes is not None:
        yield f"A card must have {format_bytes(found.prediction.required_bytes)} in all, as predicted."
    if found.closed is not None:
        peak = found.closed.peak
        yield (
            f"The closed form says {format_bytes(peak.allocated_bytes)} allocated and "
            f"{format_bytes(peak.required_bytes)} required."
        )


def _surroundings(measurement: "Measurement") -> str:
    found = measurement.environment
    if found is None:
        return ""
    parts = [
        found.driver and f"driver {found.driver}",
        found.cuda and f"CUDA {found.cuda}",
        found.alloc_conf and f"allocator {printable(found.alloc_conf)}",
        f"Python {found.python}",
        found.platform,
        f"{found.threads} threads",
    ]
    return ", ".join(part for part in parts if part)


def _where(measurement: "Measurement") -> str:
    place = measurement.died_in
    if place is None:
        return "before it began"
    if place.phase == "load":
        return "while the model was loaded"
    if place.phase in MOMENTS:
        return f"in {words.phase(place.phase)}"
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
        "environment": None if measurement.environment is None else measurement.environment._asdict(),
        "room": None if measurement.room is None else measurement.room._asdict(),
        "warmup": measurement.warmup,
        "lengths": list(measurement.lengths),
        "cap_bytes": measurement.cap_bytes,
        "snapshot": measurement.snapshot,
        "host_bytes": measurement.host_bytes,
        "seconds": measurement.seconds,
        "tokens_per_second": measurement.tokens_per_second,
        "outcome": measurement.outcome,
        "died_in": None if measurement.died_in is None else measurement.died_in._asdict(),
        "detail": measurement.detail,
        "owners": dict(measurement.owners),
        "load": None if measurement.load is None else _peak(measurement.load),
        "steps": _steps(measurement),
        "gpus": scenario.cluster.world_size,
        "rank": measurement.rank,
        "ranks": [_rank(number, part) for number, part in enumerate(measurement.ranks)],
        "predicted": _predicted(found.prediction),
        "closed_form": None if found.closed is None else _closed(found.closed),
        "comparison": [_compared(one) for one in found.rows],
        "peak": None if found.peak is None else _compared(found.peak),
        "notes": list(found.notes),
    }


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _rank(number: int, part: "Measurement") -> dict[str, object]:
    """What one of several ranks reported."""
    return {
        "rank": number,
        "device": None if part.device is None else part.device._asdict(),
        "room": None if part.room is None else part.room._asdict(),
        "outcome": part.outcome,
        "detail": part.detail,
        "died_in": None if part.died_in is None else part.died_in._asdict(),
        "host_bytes": part.host_bytes,
        "seconds": part.seconds,
        "owners": dict(part.owners),
        "load": None if part.load is None else _peak(part.load),
        "peak": None if part.peak is None else _peak(part.peak),
        "steps": _steps(part),
    }


def _steps(measurement: "Measurement") -> list[dict[str, object]]:
    return [
        {
            "number": step.number,
            "seconds": step.seconds,
            "tokens": step.tokens,
            "phases": [_peak(peak) for peak in step.phases],
        }
        for step in measurement.steps
    ]


def _peak(peak: "PhasePeak") -> dict[str, object]:
    facts = peak._asdict()
    return {"name": facts.pop("phase"), **facts}


def _predicted(prediction: "Prediction") -> dict[str, object]:
    def phases(step: "Step") -> list[dict[str, object]]:
        owners = getattr(prediction, step)
        return [{**_peak(peak), "owners": owners[peak.phase]._asdict()} for peak in prediction.peaks(step)]

    return {
        "evidence": prediction.evidence,
        "load": {"allocated_bytes": prediction.load.total, "owners": prediction.load._asdict()},
        "first": phases("first"),
        "steady": phases("steady"),
        "reserved_bytes": prediction.reserved_bytes,
        "context_bytes": prediction.context_bytes,
        "required_bytes": prediction.required_bytes,
    }


def _closed(estimate: Estimate) -> dict[str, object]:
    peak = estimate.peak
    return {
        "phase": peak.phase,
        "allocated_bytes": peak.allocated_bytes,
        "reserved_bytes": peak.reserved_bytes,
        "device_bytes": peak.device_bytes,
        "required_bytes": peak.required_bytes,
    }


def _compared(one: "Comparison") -> dict[str, object]:
    """Allocated bytes by themselves, and what else was counted under the name of its metric."""
    return {
        "step": one.step,
        "phase": one.phase,
        **_both(one, "allocated"),
        **{metric: _both(one, metric) for metric in HEADINGS},
    }


def _both(one: "Comparison", metric: "Metric") -> dict[str, object]:
    return {
        "predicted_bytes": one.predicted.of(metric) if one.predicted else None,
        "measured_bytes": one.measured.of(metric) if one.measured else None,
        "difference": one.difference_in(metric),
    }
