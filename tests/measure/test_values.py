"""Predicted beside measured, tasks as files, and room for them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from planner.errors import UnsupportedScenario
from planner.local import processor
from planner.measure import Measurement, PhasePeak, Prediction, StepPeaks, compare, room
from planner.measure.task import Task, read_task, write_task
from planner.measure.values import peak_comparison
from planner.result import Memory
from planner.spec import Scenario
from planner.units import GIB

Make = Callable[..., Measurement]


def test_every_phase_of_the_first_and_of_the_last_step_is_compared(measured: Make, prediction: Prediction) -> None:
    found = compare(prediction, measured())

    assert [(row.step, row.phase) for row in found[:2]] == [("", "load"), ("first", "forward")]
    assert len(found) == 1 + 4 + 4
    assert {round(row.difference, 4) for row in found if row.difference is not None} == {-0.01}


def test_the_peaks_stand_beside_each_other_whichever_phases_they_are(measured: Make, prediction: Prediction) -> None:
    peak = peak_comparison(compare(prediction, measured()))

    assert peak is not None
    assert peak.phase == "backward"
    assert peak.difference == pytest.approx(-0.01)


def test_one_step_is_the_first(measured: Make, prediction: Prediction) -> None:
    only = measured(steps=measured().steps[:1])

    assert {row.step for row in compare(prediction, only)} == {"", "first"}


def test_what_was_not_reached_is_missing_and_not_zero(measured: Make, prediction: Prediction) -> None:
    dead = measured(steps=(), load=None, outcome="killed")
    found = compare(prediction, dead)

    assert all(row.measured is None and row.difference is None for row in found)
    assert peak_comparison(found) is None
    assert dead.peak is None


def test_the_peak_may_be_in_the_first_step(measured: Make) -> None:
    steps = (StepPeaks(0, 1.0, (PhasePeak("loss", 9000),)), *measured().steps[1:])

    assert measured(steps=steps).peak == PhasePeak("loss", 9000)


def on_card(phase: str, allocated: int, reserved: int, device: int) -> PhasePeak:
    return PhasePeak(phase, allocated, reserved, device)  # type: ignore[arg-type]


def test_every_way_of_counting_is_compared_and_has_its_own_peak(measured: Make) -> None:
    """Reserved bytes and allocated ones may be highest in different phases."""
    phases = (on_card("forward", 100, 400, 450), on_card("backward", 300, 310, 460))
    run = measured(steps=(StepPeaks(0, 1.0, phases), StepPeaks(1, 1.0, phases)), load=on_card("load", 50, 60, 70))
    owners = {"forward": Memory(weights=110), "backward": Memory(weights=330)}
    predicted = Prediction(
        "traced",
        Memory(weights=50),
        owners,  # type: ignore[arg-type]
        owners,  # type: ignore[arg-type]
        reserved={
            "load": {"load": 66},
            "first": {"forward": 440, "backward": 341},
            "steady": {"forward": 440, "backward": 341},
        },
        context_bytes=22,
    )
    found = compare(predicted, run)
    peak = peak_comparison(found)

    assert found[0].difference_in("reserved") == pytest.approx(0.1)
    assert found[0].difference_in("device") == pytest.approx(88 / 70 - 1)
    assert found[-1].step == "steady"
    assert found[-1].difference_in("reserved") == pytest.approx(0.1)
    assert peak is not None
    assert peak.predicted == ("backward", 330, 440, 462)
    assert peak.measured == ("backward", 300, 400, 460)
    assert predicted.reserved_bytes == 440


def test_the_median_leaves_out_the_warm_up(measured: Make) -> None:
    steps = tuple(StepPeaks(number, seconds, (), 100) for number, seconds in enumerate((9.0, 4.0, 2.0, 1.0)))

    assert measured(steps=steps).seconds == 2.0
    assert measured(steps=steps, warmup=2).tokens_per_second == 75.0
    assert measured(steps=steps, warmup=0).seconds == 3.0
    assert measured(steps=steps[:1]).seconds is None
    assert measured(steps=steps[:1]).tokens_per_second is None


def test_a_steady_phase_is_the_highest_of_all_later_steps(measured: Make, prediction: Prediction) -> None:
    counts = (9, 5, 7, 6)
    steps = tuple(StepPeaks(number, 1.0, (PhasePeak("loss", count),)) for number, count in enumerate(counts))

    assert [row.measured for row in compare(prediction, measured(steps=steps)) if row.step == "steady"][1] == (
        "loss",
        7,
        None,
        None,
    )


def test_of_ragged_lengths_only_the_steps_that_were_taken_are_compared(measured: Make) -> None:
    later = tuple({"loss": Memory(logits=count)} for count in (5, 7, 9))
    predicted = Prediction("traced", Memory(), later[0], later[2], later)  # type: ignore[arg-type]
    steps = tuple(StepPeaks(number, 1.0, (PhasePeak("loss", 1),)) for number in range(3))
    dead = compare(predicted, measured(steps=steps, outcome="killed"))

    assert [row.predicted for row in dead if row.step == "steady"] == [("loss", 7, None, None)]


def test_a_task_survives_its_file(tmp_path: Path, scenario: Scenario) -> None:
    task = Task(kind="measure", scenario=scenario, steps=5, layers=2)
    write_task(task, tmp_path / "task")

    found = read_task(tmp_path / "task")

    assert found == task
    assert found.scenario is not None
    assert found.scenario.model.config == scenario.model.config
    assert found.scenario.stack.versions == scenario.stack.versions


def test_what_does_not_fit_is_refused_before_it_swaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "available_bytes", lambda: 8 * GIB)

    room.check_room(6 * GIB, 32)
    with pytest.raises(UnsupportedScenario, match=r"about 12\.\d\d GiB .* 8\.00 GiB free: use --layers N"):
        room.check_room(12 * GIB, 32)
    with pytest.raises(UnsupportedScenario, match="shorter sequences"):
        room.check_room(12 * GIB, 1)


def test_room_is_known_where_the_system_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processor, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(processor, "CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   2048 kB\n", encoding="ascii")
    assert processor.available_bytes() == 2 * 2**20

    (tmp_path / "memory.max").write_text("1048576\n", encoding="ascii")
    (tmp_path / "memory.current").write_text("524288\n", encoding="ascii")
    assert processor.available_bytes() == 2**19

    (tmp_path / "memory.max").write_text("max\n", encoding="ascii")
    assert processor.available_bytes() == 2 * 2**20
