"""What a report gathers: the parts agree with the commands that give them alone."""

from dataclasses import replace

import pytest

import planner
from planner.errors import UnsupportedScenario
from planner.estimators import Estimator, estimate
from planner.recommend.frontier import shaped
from planner.recommend.request import request_of
from planner.recommend.surface import surface
from planner.recommend.verdict import judge
from planner.reporting import report
from planner.reporting.documents import documents
from planner.result import Estimate
from planner.spec import Scenario
from tests.report.reading import CASES, report_of


@pytest.mark.parametrize("case", CASES)
def test_the_plan_is_that_of_the_question(case: str) -> None:
    found = report_of(case)

    assert found.plan == planner.plan(**CASES[case])
    assert found.absent == ()
    assert found.command.startswith("plan --model ")


def test_the_candidate_is_the_recommended_one_or_the_nearest() -> None:
    fits, nothing = report_of("fits"), report_of("nothing")
    index = fits.plan.recommendation.candidate

    assert index is not None
    assert fits.candidate is fits.plan.candidates[index]
    least = min(one.estimate.peak.required_bytes for one in nothing.plan.candidates)
    assert nothing.candidate.estimate.peak.required_bytes == least


@pytest.mark.parametrize("case", CASES)
def test_every_point_is_what_the_estimator_says(case: str) -> None:
    found = report_of(case).surface
    assert found is not None

    for point in found.points:
        one = estimate(shaped(found.scenario, point.seq_len, point.micro_batch_size))
        assert point.required_bytes == one.peak.required_bytes
        assert point.verdict == judge(one, found.scenario.cluster)


@pytest.mark.parametrize("case", CASES)
def test_the_frontier_lies_between_its_points(case: str) -> None:
    found = report_of(case).surface
    assert found is not None
    most = {cell.seq_len: cell for cell in found.lane.cells}

    for point in found.points:
        cell = most[point.seq_len]
        assert (point.verdict == "fits") == (point.micro_batch_size <= cell.fits)
        assert (point.verdict != "does_not_fit") == (point.micro_batch_size <= cell.tight)


def test_the_scenarios_own_batch_and_length_are_points() -> None:
    one = planner.scenario(model="8b", gpu="4090", method="qlora", seq_len=3000, micro_batch_size=3)
    found = surface(one)

    assert 3000 in found.lengths
    assert 3 in found.batches
    assert list(found.lengths) == sorted(found.lengths)
    assert list(found.batches) == sorted(found.batches)


def test_lengths_and_batches_that_the_user_set_do_not_bind_the_frontier() -> None:
    found = report(request_of(model="8b", gpu="4090", method="lora", settings={"seq_len": 1024, "micro_batch_size": 2}))

    assert found.frontier is not None
    assert found.frontier.lengths[0] == 256
    assert found.candidate.scenario.train.seq_len == 1024


def test_a_part_without_an_answer_leaves_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(scenario: Scenario, *, estimator: Estimator | None = None) -> Estimate:
        raise UnsupportedScenario("no formula for this")

    monkeypatch.setattr("planner.reporting.gather.surface", refuse)
    found = report(request_of(model="pythia-14m", gpu="4090", method="lora", settings={}))

    assert found.surface is None
    assert found.absent == ("how far it goes: no formula for this",)
    assert found.offers is not None


def test_documents_name_card_price_and_model() -> None:
    found = report_of("fits").documents

    assert {one.of for one in found} == {"NVIDIA GeForce RTX 4090", "llama-3.1-8b"}
    assert {"memory", "price", "config"} <= {part for one in found for part in one.facts.split(", ")}
    assert all(one.document for one in found)
    assert all(one.url.startswith("https://") for one in found if one.url)


def test_a_model_of_ones_own_has_no_documents_of_the_catalogue() -> None:
    found = report_of("fits")
    plan = replace(found.plan, model=replace(found.plan.model, name="../../../etc/passwd"))

    assert {one.of for one in documents(plan, None)} == {"NVIDIA GeForce RTX 4090"}


def test_who_listens_hears_what_is_done() -> None:
    heard: list[str] = []
    report(request_of(model="pythia-14m", gpu="4090", method="lora", settings={}), told=heard.append)

    assert heard[0] == "planning"
    assert heard[-1] == "drawing"
