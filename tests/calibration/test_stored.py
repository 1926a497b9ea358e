"""Stored records change the next plan: what is measured here corrects, narrows and refuses."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import planner
from planner.calibration import Query, finder
from planner.calibration.stored import MOST
from planner.cli import main
from planner.closed_form import estimate
from planner.estimators import measured_here
from planner.records import Environment, Peaks, PhasePeaks, Record, RunDevice, document_of
from planner.records.store import Store
from planner.result import Estimate
from planner.spec import Scenario
from planner.units import GIB

CARD = RunDevice(
    kind="cuda", name="NVIDIA GeForce RTX 4090", total_bytes=24 * GIB, architecture="ada", capability=(8, 9)
)
STEP = (PhasePeaks(phase="backward", allocated_bytes=10),)
QUERY = Query("trl", "ada", 1)


def scenario(**settings: Any) -> Scenario:
    facts: dict[str, Any] = {"model": "llama-3.2-1b", "gpu": "4090", "method": "lora", **settings}
    return planner.scenario(**facts)


def record(of: Scenario, allocated: int, number: int = 0, **facts: Any) -> Record:
    usual: dict[str, Any] = {
        "taken_at": f"2026-03-01T12:00:00.{number:06d}Z",
        "scenario": document_of(of),
        "device": CARD,
        "outcome": "done",
        "peak": Peaks(allocated_bytes=allocated),
    }
    return Record(**(usual | facts))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The user's store, empty and alone."""
    monkeypatch.setenv("PLANNER_DATA_DIR", str(tmp_path))
    measured_here.cache_clear()
    yield Store(tmp_path / "measurements.db")
    measured_here.cache_clear()


def planned(of: Scenario) -> Estimate:
    """A new process's answer."""
    measured_here.cache_clear()
    return planner.estimate(of)


# ---------------------------------------------------------------- records as runs


def test_a_record_is_a_run_predicted_anew() -> None:
    of = scenario()
    one = record(of, 5 * GIB, predicted={"closed-form": {"allocated": 1}, "traced": {"allocated": 4 * GIB}})

    (run,) = finder(lambda _: (one,), estimate)(QUERY)

    assert run.scenario == of
    assert run.predicted["closed-form"]["allocated"] == estimate(of).peak.allocated_bytes
    assert run.error("traced", "allocated") == 0.25
    assert run.error("traced", "reserved") is None


@pytest.mark.parametrize("outcome", ["failed", "killed", "timed_out"])
def test_runs_that_ended_otherwise_say_nothing(outcome: str) -> None:
    assert finder(lambda _: (record(scenario(), 5 * GIB, outcome=outcome),), estimate)(QUERY) == ()


def test_what_another_version_traced_is_forgotten() -> None:
    one = record(scenario(), 5 * GIB, predicted={"traced": {"allocated": 4 * GIB}}, planner="0.0.1")

    (run,) = finder(lambda _: (one,), estimate)(QUERY)

    assert run.error("traced", "allocated") is None
    assert run.error("closed-form", "allocated") is not None


def test_what_ran_out_of_memory_has_no_peak_but_a_card() -> None:
    alone = Environment(others_bytes=0)
    one = record(scenario(), 0, outcome="out_of_memory", peak=Peaks(allocated_bytes=GIB), environment=alone)

    (run,) = finder(lambda _: (one,), estimate)(QUERY)

    assert (run.out_of_memory, run.measured, run.held_bytes) == (True, {}, CARD.total_bytes)


def test_a_cap_stands_in_for_the_card() -> None:
    one = record(scenario(), 5 * GIB, environment=Environment(cap_bytes=16 * GIB))

    (run,) = finder(lambda _: (one,), estimate)(QUERY)

    assert run.held_bytes == 16 * GIB


@pytest.mark.parametrize(
    ("environment", "held"),
    [
        (Environment(), None),
        (Environment(others_bytes=20 * GIB), 4 * GIB),
        (Environment(others_bytes=2 * GIB, cap_bytes=16 * GIB), 16 * GIB),
        (Environment(others_bytes=10 * GIB, cap_bytes=16 * GIB), 14 * GIB),
    ],
    ids=str,
)
def test_a_failure_proves_no_more_than_others_left(environment: Environment, held: int | None) -> None:
    """A card on which another process sat is not a card that is too small."""
    one = record(scenario(), 0, outcome="out_of_memory", peak=Peaks(), environment=environment)

    (run,) = finder(lambda _: (one,), estimate)(QUERY)

    assert run.held_bytes == held


@pytest.mark.parametrize(
    ("facts", "metrics"),
    [
        ({"environment": Environment(allocator="expandable_segments:True")}, {"allocated"}),
        ({"environment": Environment(allocator="roundup_power2_divisions:8")}, set()),
        ({"lengths": (2048, 512)}, {"allocated"}),
        ({}, {"allocated", "reserved"}),
    ],
    ids=["expandable", "rounded up", "ragged", "as planned"],
)
def test_only_what_a_plan_assumes_is_held_against_it(facts: dict[str, Any], metrics: set[str]) -> None:
    one = record(scenario(), 0, peak=Peaks(allocated_bytes=5 * GIB, reserved_bytes=6 * GIB), **facts)

    (run,) = finder(lambda _: (one,), estimate)(QUERY)

    assert set(run.measured) == metrics
    assert run.as_planned == (not facts)


def test_a_first_step_alone_has_no_states_and_says_nothing_of_a_plan() -> None:
    several, alone = (record(scenario(), 5 * GIB, first=STEP, steady=steady) for steady in (STEP, ()))
    runs = finder(lambda _: (several, alone), estimate)(QUERY)

    assert [dict(run.measured) for run in runs] == [{"allocated": 5 * GIB}, {}]


@pytest.mark.parametrize(
    ("name", "value"),
    [("seq_len", -5), ("micro_batch_size", 0), ("peft_config", "{"), ("peft_config", "[1]"), ("seq_len", 10**18)],
    ids=str,
)
def test_settings_without_a_meaning_are_passed_over(name: str, value: object) -> None:
    """Records are imported from elsewhere: none of them may stop a plan, or correct it by nonsense."""
    document = document_of(scenario())
    strange = {**document, "train": {**document["train"], name: value}}

    assert finder(lambda _: (record(scenario(), 5 * GIB, scenario=strange),), estimate)(QUERY) == ()


def test_a_formula_that_stumbles_stops_no_plan() -> None:
    def stumbles(_scenario: Scenario) -> Estimate:
        raise ZeroDivisionError

    assert finder(lambda _: (record(scenario(), 5 * GIB),), stumbles)(QUERY) == ()


def test_a_record_of_a_later_version_is_passed_over() -> None:
    strange = record(scenario(), 5 * GIB, scenario={**document_of(scenario()), "schema": 99})

    assert finder(lambda _: (strange, record(scenario(), 5 * GIB)), estimate)(QUERY)[0].scenario == scenario()


def test_only_the_newest_are_looked_at() -> None:
    one = record(scenario(), 5 * GIB)

    assert len(finder(lambda _: (one,) * (MOST + 5), estimate)(QUERY)) == MOST


# ---------------------------------------------------------------- the next plan


def test_a_stored_run_corrects_the_next_plan_and_leaves_no_more_open(store: Store) -> None:
    of = scenario()
    before = planned(of)
    real = round(before.peak.allocated_bytes * 1.05)
    store.add(record(of, real))

    after = planned(of)

    assert before.basis is not None
    assert after.basis is not None
    assert (before.basis.kind, after.basis.kind) == ("published", "scenario")
    assert after.peak.required_bytes - before.peak.required_bytes == pytest.approx(
        real - before.peak.allocated_bytes, abs=2
    )
    assert after.peak.high_bytes - after.peak.low_bytes <= before.peak.high_bytes - before.peak.low_bytes
    assert after.phases == before.phases


def test_where_it_died_the_next_plan_refuses(store: Store) -> None:
    assert planner.plan(model="llama-3.2-1b", gpu="4090", method="lora").fits
    alone = Environment(others_bytes=0)
    store.add(record(scenario(), 0, outcome="out_of_memory", peak=Peaks(), environment=alone))
    measured_here.cache_clear()

    assert planner.plan(model="llama-3.2-1b", gpu="4090", method="lora").candidates[0].verdict == "does_not_fit"


def test_the_command_says_what_corrected_it(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.add(record(scenario(), 8 * GIB))
    measured_here.cache_clear()

    said = ["--micro-batch-size", "1", "--grad-accumulation", "1", "--gradient-checkpointing"]  # nothing to tune
    code = main(["--model", "llama-3.2-1b", "--gpu", "4090", "--method", "lora", *said, "--format", "json"])

    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    assert answer["candidates"][0]["interval"]["basis"] == "scenario"
    assert answer["candidates"][0]["interval"]["correction_bytes"] > 0
    assert any("by 1 run of this very scenario" in one["text"] for one in answer["recommendation"]["reasons"])


def test_a_store_that_cannot_be_read_costs_a_note_and_no_plan(store: Store, tmp_path: Path) -> None:
    store.add(record(scenario(), 8 * GIB))
    with sqlite3.connect(tmp_path / "measurements.db") as base:
        base.execute("PRAGMA user_version = 999")
    base.close()
    measured_here.cache_clear()

    answer = planner.plan(model="llama-3.2-1b", gpu="4090", method="lora")

    assert answer.fits
    assert any("own measurements are left out" in note for note in answer.notes)


def test_reading_leaves_nothing_behind(store: Store, tmp_path: Path) -> None:
    planned(scenario())

    assert list(tmp_path.iterdir()) == []
