"""A measurement with what was predicted for it, as a record that can be stored, exported and calibrated with."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from planner.measure.task import Device
from planner.measure.truncation import closed_form_of
from planner.measure.values import Measurement, PhasePeak, Prediction, Room, merged
from planner.records import (
    DiedIn,
    Environment,
    Peaks,
    PhasePeaks,
    RankPeaks,
    Record,
    RunDevice,
    architecture_of,
    document_of,
    now,
)
from planner.result import Estimate, Peak

MOST_DETAIL = 500
"""Characters of what a child said last."""


def closed_form(measurement: Measurement) -> Estimate | None:
    """The closed form of what ran, its first layers only where those ran; ``None`` where there is no closed form."""
    return closed_form_of(measurement.scenario, measurement.layers)


def record_of(measurement: Measurement, prediction: Prediction | None, closed: Estimate | None) -> Record:
    """One run, however it ended, beside its predictions; raise ``ValueError`` for one that never saw its device."""
    if measurement.device is None:
        raise ValueError("a run without a device is no measurement")
    first, *later = [step.phases for step in measurement.steps] or [()]
    steady = merged(peak for phases in later for peak in phases)
    return Record(
        taken_at=now(),
        scenario=document_of(measurement.scenario),
        device=run_device(measurement.device),
        outcome=measurement.outcome,
        layers=measurement.layers,
        lengths=measurement.lengths,
        environment=environment_of(measurement),
        died_in=DiedIn(**measurement.died_in._asdict()) if measurement.died_in else None,
        detail=measurement.detail[:MOST_DETAIL],
        load=_phase(measurement.load) if measurement.load else None,
        first=tuple(map(_phase, first)),
        steady=tuple(map(_phase, steady)),
        peak=peak_of([*first, *steady]),
        first_seconds=measurement.steps[0].seconds if measurement.steps else None,
        steady_seconds=measurement.seconds,
        tokens_per_second=measurement.tokens_per_second,
        host_bytes=measurement.host_bytes,
        owners=measurement.owners,
        predicted=predicted(prediction, closed),
        rank=measurement.rank,
        ranks=tuple(_rank(number, part) for number, part in enumerate(measurement.ranks)),
    )


def _rank(number: int, part: Measurement) -> RankPeaks:
    """One of several ranks."""
    peak = peak_of(phase for step in part.steps for phase in step.phases)
    return RankPeaks(
        rank=number,
        allocated_bytes=peak.allocated_bytes,
        reserved_bytes=peak.reserved_bytes,
        device_bytes=peak.device_bytes,
        owners=part.owners,
        steady_seconds=part.seconds,
        host_bytes=part.host_bytes,
    )


def run_device(device: Device) -> RunDevice:
    """The device as records group them."""
    return RunDevice(
        kind=device.kind,
        name=device.name,
        total_bytes=device.total_bytes,
        architecture=architecture_of(device.kind, device.capability, device.name),
        capability=device.capability,
    )


def environment_of(measurement: Measurement) -> Environment:
    """What else the numbers of a run depend on."""
    found = measurement.environment
    return Environment(
        versions=measurement.versions,
        driver=found.driver if found else "",
        allocator=found.alloc_conf if found else "",
        cap_bytes=measurement.cap_bytes,
        others_bytes=others_bytes(measurement.room),
    )


def others_bytes(room: Room | None) -> int | None:
    """The most that others may have held: with the context, where the driver does not tell the two apart.

    >>> others_bytes(Room(1000, 700, 50, 250)), others_bytes(Room(1000, 700, 300, None)), others_bytes(None)
    (250, 300, None)
    """
    if room is None:
        return None
    return room.context_bytes if room.others_bytes is None else room.others_bytes


def _phase(peak: PhasePeak) -> PhasePeaks:
    return PhasePeaks(**peak._asdict())


def peak_of(peaks: Iterable[PhasePeak]) -> Peaks:
    """The highest of each way of counting, whichever phases they are in."""
    found = merged(peak._replace(phase="load") for peak in peaks)
    return Peaks(**{name: count for name, count in found[0]._asdict().items() if name != "phase"}) if found else Peaks()


def predicted(prediction: Prediction | None, closed: Estimate | None) -> Mapping[str, Mapping[str, int]]:
    """Bytes at the peak by evidence and metric; what was not predicted is absent."""
    found = {}
    if prediction is not None:
        found["traced"] = _traced(prediction)
    if closed is not None:
        found["closed-form"] = _metrics(closed.peak)
    return MappingProxyType(found)


def _traced(prediction: Prediction) -> Mapping[str, int]:
    context, reserved = prediction.context_bytes, prediction.reserved_bytes
    counts = {
        "allocated": prediction.peak_bytes,
        "reserved": reserved,
        "device": None if reserved is None or context is None else reserved + context,
        "required": prediction.required_bytes,
    }
    return MappingProxyType({name: count for name, count in counts.items() if count is not None})


def _metrics(peak: Peak) -> Mapping[str, int]:
    return MappingProxyType(
        {
            "allocated": peak.allocated_bytes,
            "reserved": peak.reserved_bytes,
            "device": peak.device_bytes,
            "required": peak.required_bytes,
        }
    )
