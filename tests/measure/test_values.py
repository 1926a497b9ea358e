"""Predicted beside measured, tasks as files, and room for them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from planner.errors import UnsupportedScenario
from planner.local import processor
from planner.measure import Measurement, PhasePeak, Prediction, StepPeaks, compare, room
from planner.measure.task import Task, read_task, write_task
from planner.measure.values import peak_comparison
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
