"""What is recommended is held against its trace, and gives way where the trace does not run."""

from dataclasses import replace

import pytest

from planner.errors import UnsupportedScenario
from planner.recommend.candidates import candidates
from planner.recommend.choice import recommend
from planner.recommend.confirm import confirm
from planner.recommend.request import Ask
from planner.result import Candidate, Estimate, Recommendation
from planner.spec import Scenario
from planner.units import GIB
from tests.recommend.fakes import ask, by_method, needs


def planned(asked: Ask | None = None) -> tuple[tuple[Candidate, ...], Recommendation]:
    asked = asked or ask()
    estimate = by_method(full=200, lora=20, qlora=10)
    found, _ = candidates(asked, estimate)
    return recommend(found, asked, estimate)


def traced(**gib: float) -> object:
    inner = needs(lambda s: gib[s.train.method])

    def trace(scenario: Scenario) -> Estimate:
        return replace(inner(scenario), evidence="traced")

    return trace


def test_a_confirmed_choice_stays_and_carries_its_trace() -> None:
    shown, advice = planned()

    after, again, notes = confirm(shown, advice, traced(lora=19, qlora=9))  # type: ignore[arg-type]

    assert again.candidate == advice.candidate
    assert again.candidate is not None
    chosen = after[again.candidate]
    assert (chosen.estimate.evidence, chosen.estimate.peak.required_bytes) == ("traced", 19 * GIB)
    assert any("lora traced: needs 19.00 GiB where the closed form said 20.00 GiB" in note for note in notes)
    assert {one.way.candidate.estimate.evidence for one in again.alternatives} == {"traced"}


def test_a_choice_whose_trace_does_not_run_gives_way_to_an_alternative() -> None:
    shown, advice = planned()

    after, again, notes = confirm(shown, advice, traced(lora=40, qlora=9))  # type: ignore[arg-type]

    assert again.candidate is not None
    assert after[again.candidate].method == "qlora"
    assert again.command is not None
    assert "--method qlora" in again.command
    assert all(one.way.candidate is not after[again.candidate] for one in again.alternatives)
    assert any("an alternative takes its place" in note for note in notes)


def test_nothing_is_recommended_where_no_trace_runs() -> None:
    shown, advice = planned()

    _, again, notes = confirm(shown, advice, traced(lora=40, qlora=40))  # type: ignore[arg-type]

    assert (again.candidate, again.command) == (None, None)
    assert any("nothing else that was traced does" in note for note in notes)


def test_what_cannot_be_traced_keeps_its_closed_form() -> None:
    shown, advice = planned()

    def trace(scenario: Scenario) -> Estimate:
        raise UnsupportedScenario("no such kernel here")

    after, again, notes = confirm(shown, advice, trace)

    assert again.candidate == advice.candidate
    assert after == shown
    assert any("was not traced: no such kernel here" in note for note in notes)


def test_without_a_choice_nothing_is_traced() -> None:
    found, _ = candidates(ask(), by_method(full=200, lora=200, qlora=200))
    shown, advice = recommend(found, ask(), by_method(full=200, lora=200, qlora=200))

    def trace(scenario: Scenario) -> Estimate:
        pytest.fail("asked")

    assert confirm(shown, advice, trace) == (shown, advice, ())
