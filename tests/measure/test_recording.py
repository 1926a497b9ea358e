"""A measurement as a record: whatever its end, with both predictions, and back from JSON the same."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest

from planner.closed_form import estimate
from planner.measure import Device, Measurement, PhasePeak, Prediction, StepPeaks
from planner.measure.recording import closed_form, record_of
from planner.measure.values import Environment, Place, Room
from planner.records import read_record, record_text
from planner.result import Memory
from planner.units import GIB

Make = Callable[..., Measurement]

CARD = Device("cuda", "NVIDIA Example", 24 * GIB, (8, 9), 128)


def test_a_record_has_both_predictions_and_comes_back(measured: Make, prediction: Prediction) -> None:
    run = measured(environment=Environment("Linux", "3.13", 4, driver="575.1"), host_bytes=600, cap_bytes=2**30)
    closed = closed_form(run)
    record = record_of(run, prediction, closed)

    assert closed == estimate(run.scenario)
    assert record.predicted["traced"] == {"allocated": prediction.peak_bytes}
    assert record.predicted["closed-form"]["required"] == closed.peak.required_bytes
    assert (record.outcome, record.device.architecture, record.environment.driver) == ("done", "cpu", "575.1")
    assert (record.host_bytes, record.environment.cap_bytes) == (600, 2**30)
    assert (record.first_seconds, record.steady_seconds) == (0.5, 0.25)
    assert record.peak.allocated_bytes == 5000
    assert record.restore() == run.scenario
    assert read_record(record_text(record)) == record


def test_a_card_has_three_ways_of_counting(measured: Make, prediction: Prediction) -> None:
    phases = (PhasePeak("forward", 100, 400, 450), PhasePeak("backward", 300, 310, 440))
    run = measured(device=CARD, steps=(StepPeaks(0, 1.0, phases),), load=None)
    reserved: Mapping[str, Mapping[str, int]] = {"load": {}, "first": {"backward": 420}, "steady": {}}
    known = replace(prediction, reserved=MappingProxyType(reserved), context_bytes=30, required_bytes=460)  # type: ignore[arg-type]
    record = record_of(run, known, None)

    assert record.device.architecture == "ada"
    assert (record.peak.allocated_bytes, record.peak.reserved_bytes, record.peak.device_bytes) == (300, 400, 450)
    assert record.predicted["traced"] == {
        "allocated": prediction.peak_bytes,
        "reserved": 420,
        "device": 450,
        "required": 460,
    }
    assert set(record.predicted) == {"traced"}
    assert (record.steady, record.steady_seconds) == ((), None)


def test_a_record_says_what_made_the_run_unlike_a_plan(measured: Make) -> None:
    run = measured(lengths=(256, 64), room=Room(24 * GIB, 20 * GIB, GIB, 3 * GIB))
    record = record_of(run, None, None)

    assert (record.lengths, record.environment.others_bytes) == ((256, 64), 3 * GIB)
    assert read_record(record_text(record)) == record


@pytest.mark.parametrize("outcome", ["out_of_memory", "timed_out", "killed", "failed"])
def test_a_run_that_failed_is_a_record_too(measured: Make, prediction: Prediction, outcome: str) -> None:
    run = measured(steps=(), load=None, owners={}, outcome=outcome, died_in=Place(0, "load"), detail="x" * 5000)
    record = record_of(run, prediction, None)

    assert (record.outcome, record.first, record.steady, record.load) == (outcome, (), (), None)
    assert record.died_in is not None
    assert record.died_in.phase == "load"
    assert len(record.detail) == 500
    assert record.peak.allocated_bytes is None
    assert read_record(record_text(record)) == record


def test_without_a_device_there_is_nothing_to_record(measured: Make, prediction: Prediction) -> None:
    with pytest.raises(ValueError, match="no measurement"):
        record_of(measured(device=None), prediction, None)


def test_the_closed_form_is_of_the_layers_that_ran(measured: Make) -> None:
    whole, part = closed_form(measured()), closed_form(measured(layers=1))

    assert whole is not None
    assert part is not None
    assert part.phases["load"].total < whole.phases["load"].total


def test_what_has_no_closed_form_has_none(measured: Make) -> None:
    run = measured()
    strange = replace(run.scenario, model=replace(run.scenario.model, blocks=(), layout=()))

    assert closed_form(replace(run, scenario=strange)) is None
    assert record_of(replace(run, scenario=strange), Prediction("traced", Memory(), {}, {}), None).predicted == {
        "traced": {"allocated": 0}
    }
