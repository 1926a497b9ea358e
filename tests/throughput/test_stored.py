"""Records of ``plan measure`` in the store change the next time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import planner
from planner.closed_form import estimate
from planner.estimators import measured_here, timed
from planner.records import Peaks, Record, RunDevice, document_of
from planner.records.store import Store
from planner.result import StepTime
from planner.spec import Scenario
from planner.throughput import step_time
from planner.units import GIB

CARD = RunDevice(
    kind="cuda", name="NVIDIA GeForce RTX 4090", total_bytes=24 * GIB, architecture="ada", capability=(8, 9)
)


def scenario(**settings: Any) -> Scenario:
    facts: dict[str, Any] = {"model": "llama-3.2-1b", "gpu": "4090", "method": "lora", **settings}
    return planner.scenario(**facts)


def record(of: Scenario, seconds: float, **facts: Any) -> Record:
    usual: dict[str, Any] = {
        "taken_at": "2026-03-01T12:00:00.000000Z",
        "scenario": document_of(of),
        "device": CARD,
        "outcome": "done",
        "peak": Peaks(allocated_bytes=GIB),
        "steady_seconds": seconds,
    }
    return Record(**(usual | facts))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The user's store, empty and alone."""
    monkeypatch.setenv("PLANNER_DATA_DIR", str(tmp_path))
    measured_here.cache_clear()
    yield Store(tmp_path / "measurements.db")
    measured_here.cache_clear()


def answer(of: Scenario) -> StepTime:
    """A new process's answer."""
    measured_here.cache_clear()
    found = timed(of, estimate(of))
    assert found is not None
    return found


def test_an_empty_store_leaves_what_is_published(store: Store) -> None:
    assert answer(scenario()) == step_time(scenario(), estimate(scenario()))


def test_a_record_of_the_scenario_is_the_next_time(store: Store) -> None:
    store.add(record(scenario(), 7.5))

    found = answer(scenario())

    assert found.seconds == pytest.approx(7.5)
    assert (found.basis.kind, found.basis.n) == ("scenario", 1)
    assert found.high / found.low < 1.2


def test_a_record_of_another_length_moves_its_neighbour(store: Store) -> None:
    before = answer(scenario())
    ours = step_time(scenario(seq_len=1024), estimate(scenario(seq_len=1024)))
    assert ours is not None
    store.add(record(scenario(seq_len=1024), 2 * ours.seconds))

    after = answer(scenario())

    assert after.seconds == pytest.approx(2 * before.seconds)
    assert after.basis.kind == "neighbours"


@pytest.mark.parametrize(
    "facts",
    [
        {"outcome": "out_of_memory", "peak": Peaks()},
        {"steady_seconds": None},
        {"layers": 2},
        {"kind": "limit"},
        {"device": RunDevice(kind="cuda", name="NVIDIA L4", total_bytes=24 * GIB, architecture="turing")},
    ],
)
def test_records_that_tell_no_time_of_this_device_change_nothing(store: Store, facts: dict[str, Any]) -> None:
    before = answer(scenario())
    store.add(record(scenario(), 7.5, **facts))

    assert answer(scenario()) == before


def test_a_plan_shows_it(store: Store) -> None:
    store.add(record(scenario(), 7.5))
    measured_here.cache_clear()

    (one, *_) = planner.plan(model="llama-3.2-1b", gpu="4090", method="lora").candidates

    assert one.step is not None
    assert one.scenario.train != scenario().train or one.step.seconds == pytest.approx(7.5)
    assert one.step.basis.kind in ("scenario", "neighbours")


def test_records_of_nonsense_spoil_no_time(store: Store) -> None:
    good = record(scenario(), 7.5)
    store.add(record(scenario(), 7.5, scenario={**good.scenario, "train": {"method": "lora", "seq_len": "many"}}))

    assert answer(scenario()) == step_time(scenario(), estimate(scenario()))
