"""The nearest alternatives run, differ from the choice, and say what they gain and cost."""

import pytest

import planner
from planner.recommend.alternatives import alternatives, held_against
from planner.recommend.order import ADAPTERS_FIRST
from planner.recommend.pareto import seconds_per_sequence
from planner.recommend.tuning import tuned
from planner.result import Way
from planner.spec import Job, Method
from tests.recommend.fakes import ask, by_method, card, fake_estimate, llama


def way(method: Method, **asked: object) -> Way:
    found = tuned(ask(**asked), method, fake_estimate)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_other_methods_come_first_in_the_order_of_preference() -> None:
    chosen = tuned(ask(gpu=card(300)), "lora", fake_estimate)
    assert chosen is not None

    found = alternatives(ask(gpu=card(300)), chosen, ADAPTERS_FIRST, fake_estimate)

    assert [one.way.candidate.method for one in found] == ["qlora", "full"]


def test_settings_of_the_same_method_follow_where_no_other_runs() -> None:
    small = llama(h=1024, f=4096, layers=16)
    asked = ask(small, settings={"seq_len": 512})
    chosen = tuned(asked.using("lora", {}), "lora", fake_estimate)
    assert chosen is not None

    found = alternatives(asked.using("lora", {}), chosen, ADAPTERS_FIRST, fake_estimate)

    assert found
    assert {one.way.candidate.method for one in found} == {"lora"}
    assert chosen.candidate.scenario not in [one.way.candidate.scenario for one in found]


def test_what_does_not_run_is_no_alternative() -> None:
    asked = ask()
    estimate = by_method(full=200, lora=20, qlora=30)
    chosen = tuned(asked, "lora", estimate)
    assert chosen is not None

    found = alternatives(asked, chosen, ADAPTERS_FIRST, estimate)

    assert all(one.way.candidate.method == "lora" for one in found)


def test_the_trade_is_recomputed() -> None:
    job = Job(tokens=10_000_000)
    one, chosen = way("qlora", job=job), way("lora", job=job)

    found = held_against(one, chosen)

    mine, theirs = one.candidate, chosen.candidate
    bytes_ = mine.estimate.peak.required_bytes - theirs.estimate.peak.required_bytes
    assert found.required_bytes == bytes_
    assert found.time_ratio == pytest.approx(seconds_per_sequence(mine) / seconds_per_sequence(theirs))
    assert found.usd is None  # the card has no price
    assert "validation loss" in found.text


@pytest.mark.parametrize(("model", "gpu", "gpus"), [("8b", "4090", 1), ("1b", "24gb", 1), ("70b", "a100-80gb", 8)])
def test_alternatives_of_real_plans_run_and_win_somewhere(model: str, gpu: str, gpus: int) -> None:
    """Other settings of the same method are listed only where they need less or are faster."""
    answer = planner.plan(model=model, gpu=gpu, gpus=gpus, job=Job(tokens=10_000_000))

    found = answer.recommendation.alternatives
    index = answer.recommendation.candidate
    assert index is not None
    assert len(found) == 2
    assert all(one.way.candidate.verdict != "does_not_fit" and one.usd is not None for one in found)
    for one in found:
        assert one.time_ratio is not None
        if one.way.candidate.method == answer.candidates[index].method:
            assert one.required_bytes < 0 or one.time_ratio < 1
