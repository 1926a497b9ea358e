"""What to rent: laws of the ranking, limits on both sides, prices old and live, and lines for what cannot be."""

import re
from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import planner
from planner.errors import UnsupportedScenario
from planner.hardware import list_gpus
from planner.prices import live
from planner.prices.amounts import spell_hours
from planner.recommend.pareto import dominates
from planner.recommend.rent import _ranked, _recommended, rent
from planner.recommend.rental import NEARLY, PETTY_USD, Rental, RentAnswer, RentRequest
from planner.recommend.request import Request
from planner.spec import Job, Lengths, Method
from tests.rent.money_samples import offer

TODAY = date(2026, 11, 26)


@cache
def answer(model: str = "llama-3.1-8b", tokens: int | None = 20_000_000, **limits: Any) -> RentAnswer:
    request = Request(model=model, gpu="", job=Job(tokens=tokens), methods=limits.pop("methods", ()))
    return rent(RentRequest(request=request, today=TODAY, **limits))


def all_of(found: RentAnswer) -> tuple[Rental, ...]:
    return (*found.offers, *found.others)


# ---------------------------------------------------------------- laws


def test_offers_are_cheapest_first_and_none_beats_another() -> None:
    found = answer()
    evident = [one for one in found.offers if not one.doubt]

    assert [one.usd for one in found.offers] == sorted(one.usd for one in found.offers)
    assert not any(dominates(one.costs(), other.costs()) for one in evident for other in evident)


def test_every_priced_card_that_runs_the_job_is_shown_once() -> None:
    found = answer()
    shown = {one.gpu for one in found.offers}
    rest = [one.gpu for one in found.others]

    assert len(rest) == len(set(rest))
    assert not shown & set(rest)
    known = {gpu.id for gpu in list_gpus() if gpu.price is not None}
    assert shown | set(rest) <= known
    assert {"rtx4090", "a100-80gb", "h100", "mi300x", "l4"} <= shown | set(rest)
    assert not {"24gb", "80gb"} & (shown | set(rest))  # classes are no cards
    assert not {"p100", "v100-32gb"} & (shown | set(rest))  # current wheels do not serve them


def test_what_is_offered_has_the_memory() -> None:
    for one in all_of(answer("llama-3.1-70b", 50_000_000)):
        assert one.candidate.verdict != "does_not_fit"
        assert one.headroom_bytes >= 0
        assert one.gpus in (1, 2, 4, 8)


offers_drawn = st.builds(
    offer,
    usd=st.sampled_from([1.0, 2.0, 4.0, 8.0]),
    hours=st.sampled_from([1.0, 2.0, 4.0]),
    gpu=st.sampled_from(["a", "b", "c"]),
    method=st.sampled_from(["lora", "qlora"]),
    gib=st.sampled_from([10, 21, 23]),
    slowest=st.sampled_from([1.1, 2.0, 2.5]),
    measured=st.booleans(),
    estimated=st.booleans(),
)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(offers_drawn, max_size=7))
def test_cheaper_never_ranks_below_dearer_when_all_else_is_equal(drawn: list[Rental]) -> None:
    ranked = _ranked(drawn)

    for place, one in enumerate(ranked):
        for other in ranked[:place]:
            assert other.usd <= one.usd
    evident = [one for one in ranked if not one.doubt]
    assert not any(dominates(one.costs(), other.costs()) for one in evident for other in evident)


def outdone(offers: list[Rental] | tuple[Rental, ...], chosen: Rental) -> list[str]:
    """Offers that ought to have been taken in place of the chosen one, by the preferences that docs/rent.md states."""
    return [one.named for one in offers if one.usd < chosen.usd and not _passed_over(one, chosen)]


def _passed_over(one: Rental, chosen: Rental) -> bool:
    """Whether the cheaper offer may run out of memory, has no listed price or no time that is sure enough, or loses
    quality that is worth the difference.
    """

    def too_near(usd: float) -> bool:
        return one.risk > chosen.risk and chosen.usd <= max(NEARLY * usd, usd + PETTY_USD * bool(one.candidate.cost))

    tight = chosen.room > 0 and not one.room
    unlisted = one.price.estimated and not chosen.price.estimated
    untimed = not one.measured and (one.usd_slowest > chosen.usd or too_near(one.usd_slowest))
    return tight or unlisted or untimed or too_near(one.usd)


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(st.lists(offers_drawn, min_size=1, max_size=7))
def test_no_offer_outdoes_the_recommended_one(drawn: list[Rental]) -> None:
    ranked = _ranked(drawn)
    place = _recommended(ranked)

    assert place is not None
    chosen = ranked[place]
    assert outdone(ranked, chosen) == []
    assert chosen.room or not any(one.room for one in ranked)
    listed = [one for one in ranked if one.room and not one.price.estimated]
    assert not chosen.price.estimated or not listed
    timed = [one for one in listed if one.measured]
    assert chosen.measured or not timed or chosen.usd_slowest <= max(one.usd for one in timed)


QUESTIONS: dict[str, dict[str, Any]] = {
    "the smallest": {"model": "1b", "dataset_tokens": "10M"},
    "offloaded checkpoints": {"model": "8b", "dataset_tokens": "10M", "stack": "unsloth"},
    "no data": {"model": "8b"},
    "both limits": {"model": "70b", "dataset_tokens": "50M", "budget": "40USD", "deadline": "12h"},
    "a budget": {"model": "7b", "dataset_tokens": "100M", "budget": "5USD", "max_gpus": 2},
    "a deadline": {"model": "qwen3-32b", "dataset_tokens": "100M", "deadline": "2d", "stack": "axolotl"},
    "several machines": {"model": "405b", "dataset_tokens": "100M", "max_gpus": 64},
    "full on several machines": {"model": "70b", "dataset_tokens": "1B", "method": "full", "max_gpus": 32},
    "experts": {"model": "mixtral-8x7b", "dataset_tokens": "20M"},
    "full": {"model": "3b", "dataset_tokens": "500M", "method": "full", "stack": "hf", "max_gpus": 2},
    "few tokens": {"model": "14b", "dataset_tokens": "200K", "stack": "torchtune"},
    "completions": {"model": "1b", "dataset_tokens": "1M", "objective": "grpo", "max_gpus": 2},
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_whoever_reads_the_table_is_told_why_nothing_cheaper_was_taken(question: dict[str, Any]) -> None:
    found = planner.rent(**question)
    chosen = found.choice
    assert chosen is not None
    within = [one for one in all_of(found) if one.within(found.question)]
    texts = {reason.code: reason.text for reason in found.reasons}

    assert outdone(within, chosen) == []
    assert not any(dominates(one.costs(), chosen.costs()) and one.doubt <= chosen.doubt for one in within)
    cheaper = [one for one in within if one.usd < chosen.usd and one.room >= min(chosen.room, 1)]
    tight = [one for one in found.offers if one.usd < chosen.usd and one.room < min(chosen.room, 1)]
    assert bool(tight) == ("memory is tight" in texts.get("MON013", ""))
    assert bool(cheaper or tight) == bool({"MON012", "MON013"} & texts.keys())
    told = texts.get("MON012", "") + texts.get("MON013", "")
    for unsure, words in ((is_unlisted, "its price is estimated"), (is_untimed, "at its slowest")):
        forgone = [one for one in cheaper if unsure(one, chosen) and one.risk <= chosen.risk]
        assert not forgone or (words in told and min(forgone, key=lambda one: one.usd).named in told)


def is_unlisted(one: Rental, chosen: Rental) -> bool:
    return one.price.estimated and not chosen.price.estimated


def is_untimed(one: Rental, chosen: Rental) -> bool:
    return not one.measured and not one.price.estimated


def test_an_estimated_time_goes_first_where_it_would_at_its_slowest() -> None:
    """``plan rent --model 8b --stack unsloth``: an H100 for $0.94 was taken before a 4090 for $0.75 at the most."""
    measured = offer(10, 1, gpu="measured")
    sure, unsure = (offer(5, 2, gpu="estimated", measured=False, slowest=most) for most in (2.0, 2.1))

    for other, place in ((sure, 0), (unsure, 1)):
        ranked = _ranked([measured, other])
        assert _recommended(ranked) == place
    four_bit = offer(5, 2, gpu="estimated", measured=False, slowest=1.59, method="qlora")
    assert _recommended(_ranked([measured, four_bit])) == 0
    nearly = offer(5, 2, gpu="estimated", measured=False, slowest=1.6, method="qlora")
    assert _recommended(_ranked([measured, nearly])) == 1


@pytest.mark.parametrize(("lora", "method"), [(12.5, "lora"), (12.51, "qlora")])
def test_quality_is_preferred_up_to_a_stated_price(lora: float, method: Method) -> None:
    ranked = _ranked([offer(10, 5, method="qlora"), offer(lora, 5, method="lora")])

    place = _recommended(ranked)

    assert place is not None
    assert ranked[place].method == method


def test_what_has_no_recipe_for_one_card_is_rented_on_several() -> None:
    """torchtune's full DPO: one MI300X was recommended, for which there is no recipe."""
    found = planner.rent(model="8b", method="full", stack="torchtune", objective="dpo", max_gpus=4)

    assert found.offers
    assert min(one.gpus for one in (*found.offers, *found.others)) == 2
    with pytest.raises(UnsupportedScenario, match="use --gpus 2"):
        planner.rent(model="8b", method="full", stack="torchtune", objective="dpo", max_gpus=1)


def test_a_cheaper_seller_moves_a_card_up_and_never_down() -> None:
    found = answer("llama-3.1-8b", 20_000_000)
    for one in found.offers:
        assert one.candidate.cost is not None
        cheaper = replace(one, candidate=replace(one.candidate, cost=replace(one.candidate.cost, usd=one.usd * 0.9)))
        before = found.offers.index(one)
        after = _ranked([cheaper if other is one else other for other in found.offers])
        assert after.index(cheaper) <= before


# ---------------------------------------------------------------- limits


def test_a_budget_holds_on_both_sides_of_its_threshold() -> None:
    cheapest = min(all_of(answer()), key=lambda one: one.usd)
    enough = answer(budget_usd=cheapest.usd)
    short = answer(budget_usd=cheapest.usd * 0.999)

    assert [one.gpu for one in enough.offers] == [cheapest.gpu]
    assert short.offers == ()
    assert short.recommended is None
    assert short.nearest is not None
    assert f"the cheapest is ${cheapest.usd:,.2f} in {spell_hours(cheapest.hours)}" in short.nearest


def test_a_deadline_holds_on_both_sides_of_its_threshold() -> None:
    fastest = min(answer().offers, key=lambda one: one.hours)
    enough = answer(deadline_hours=fastest.hours)
    short = answer(deadline_hours=fastest.hours * 0.999)

    assert [one.gpu for one in enough.offers] == [fastest.gpu]
    assert short.nearest is not None
    assert f"the fastest is ${fastest.usd:,.2f} in {spell_hours(fastest.hours)}" in short.nearest


def test_two_limits_that_are_kept_only_apart() -> None:
    found = answer("llama-3.1-70b", 50_000_000)
    cheapest, fastest = found.offers[0], min(found.offers, key=lambda one: one.hours)
    both = answer("llama-3.1-70b", 50_000_000, budget_usd=cheapest.usd * 1.001, deadline_hours=fastest.hours * 1.001)

    assert both.nearest is not None
    assert "no offer keeps both" in both.nearest
    assert fastest.named in both.nearest
    assert f"{cheapest.gpus} × {cheapest.gpu}" in both.nearest


def test_more_cards_are_counted_in_full_machines() -> None:
    found = answer("llama-3.1-405b", 10_000_000, max_gpus=16, methods=("lora",))

    assert any(one.gpus == 16 for one in all_of(found))
    clusters = [one.candidate.scenario.cluster for one in all_of(found)]
    assert all(cluster.nodes == -(-cluster.world_size // cluster.gpu.gpus_per_node) for cluster in clusters)
    assert all(cluster.nodes == 1 or cluster.network_bytes_per_s for cluster in clusters)


def test_what_is_too_large_is_told_what_would_work() -> None:
    other = answer("llama-3.1-70b", 10_000_000, max_gpus=1, methods=("full",))
    more = answer("llama-3.1-405b", 10_000_000, max_gpus=1, methods=("full",))

    assert other.offers == other.others == ()
    assert other.nearest == (
        "nothing that can be rented in one card has the memory for full of llama-3.1-70b: "
        "lora fits on 1 × b300 (--method lora), full on 8 (--max-gpus 8)"
    )
    assert more.nearest is not None
    told = re.search(r"full on (\d+) \(--max-gpus \1\)$", more.nearest)
    assert told is not None
    enough = answer("llama-3.1-405b", 10_000_000, max_gpus=int(told[1]), methods=("full",))
    assert ("b300", int(told[1])) in {(one.gpu, one.gpus) for one in all_of(enough)}


# ---------------------------------------------------------------- money


def test_without_data_offers_are_ranked_by_a_million_tokens() -> None:
    found = answer(tokens=None)

    assert found.offers
    for one in found.offers:
        assert one.candidate.cost is None
        assert one.candidate.step is not None
        assert one.usd == pytest.approx(one.usd_per_hour / 3600 / one.candidate.step.tokens_per_second * 1e6)


def test_a_faster_network_saves_setup_and_nothing_else() -> None:
    slow = planner.rent(model="llama-3.1-8b", dataset_tokens="20M", max_gpus=1, method="lora", download_gbps=1)
    fast = planner.rent(model="llama-3.1-8b", dataset_tokens="20M", max_gpus=1, method="lora", download_gbps=10)

    by_gpu = {one.gpu: one for one in all_of(fast)}
    for one in all_of(slow):
        before, after = one.candidate.cost, by_gpu[one.gpu].candidate.cost
        assert before is not None
        assert after is not None
        assert before.hours - before.setup_hours == pytest.approx(after.hours - after.setup_hours)
        assert before.setup_hours > after.setup_hours


def test_lengths_decide_memory_by_the_longest_and_time_by_the_mean() -> None:
    short = Lengths(((256, 900), (2048, 100)))
    job = Job(lengths=short, tokens=short.tokens, sequences=1000)
    found = planner.rent(model="llama-3.1-8b", job=job, max_gpus=1, method="lora")
    full = planner.rent(
        model="llama-3.1-8b", job=Job(tokens=2048 * 1000, sequences=1000), max_gpus=1, method="lora", seq_len=2048
    )

    assert found.choice is not None
    assert found.choice.candidate.scenario.train.seq_len == 2048
    dear = {one.gpu: one.usd for one in all_of(full)}
    assert all(one.usd < dear[one.gpu] for one in all_of(found) if one.gpu in dear)


def test_the_age_of_prices_is_always_said_and_warned_of_when_old() -> None:
    question = answer().question
    today, later = answer(), rent(replace(question, today=date(2027, 6, 1)))

    assert "prices of 2026-10 (2 months old)" in today.notes
    assert "MON002" not in {reason.code for reason in today.reasons}
    assert "prices of 2026-10 (8 months old)" in later.notes
    assert "prices of 2026-10 are 8 months old, past 90 days: ask sellers, or run with --prices live" in later.notes
    assert "MON002" in {reason.code for reason in later.reasons}


def test_own_profiles_bring_their_own_prices(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(
        'as_of = "2026-11"\n[[source]]\nid = "me"\ndocument = "our own contract"\n'
        '[gpus.h100]\nlow = 0.01\ntypical = 0.01\nbasis = "own"\nsources = ["me"]\n'
    )
    found = planner.rent(model="llama-3.1-70b", dataset_tokens="50M", profiles_dir=tmp_path)

    assert found.choice is not None
    assert found.choice.gpu == "h100"


# ---------------------------------------------------------------- live prices


class Catalog:
    """Two offers: a cheap 4090, and eight H100 in one machine."""

    def query(self, *, spot: bool, **_: object) -> list[Any]:
        rows = [
            ("runpod", "NVIDIA GeForce RTX 4090", "EU-RO-1", 0.25, 1, "RTX4090", 24.0),
            ("aws", "p5.48xlarge", "us-east-1", 55.04, 8, "H100", 80.0),
        ]
        names = ("provider", "instance_name", "location", "price", "gpu_count", "gpu_name", "gpu_memory")
        return [type("Item", (), {**dict(zip(names, row, strict=True)), "spot": spot})() for row in rows]


def test_live_offers_replace_the_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_catalog", Catalog)
    found = planner.rent(model="8b", dataset_tokens="20M", prices="live")

    assert found.live
    assert {(one.gpu, one.gpus, one.seller) for one in all_of(found)} == {("rtx4090", 1, "runpod"), ("h100", 8, "aws")}
    assert any("(today)" in note for note in found.notes)


def test_spot_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_catalog", Catalog)
    found = planner.rent(model="8b", dataset_tokens="20M", prices="live", spot=True)

    assert "MON008" in {reason.code for reason in found.reasons}


def test_without_live_prices_the_snapshot_serves_and_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def down() -> Any:
        raise live.Unavailable("gpuhunt is not installed: pip install 'finetune-planner[prices]'")

    monkeypatch.setattr(live, "_catalog", down)
    found = planner.rent(model="8b", dataset_tokens="20M", prices="live", spot=True)

    assert not found.live
    assert any(note.startswith("no live prices: gpuhunt is not installed") for note in found.notes)
    assert any("on-demand prices of the snapshot serve" in note for note in found.notes)
    assert "MON008" not in {reason.code for reason in found.reasons}
