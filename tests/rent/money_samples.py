"""For each rule about money: a case in which it speaks, its number and words, and one in which it does not."""

from dataclasses import replace
from datetime import date
from types import MappingProxyType
from typing import Any, NamedTuple

from planner.recommend.rental import Needs, Rental, RentRequest
from planner.recommend.request import Request
from planner.recommend.rules import Case
from planner.recommend.rules.mon_offers import Renting
from planner.result import TIME_PARTS, Cost, Memory, StepTime, TimeBasis
from planner.spec import Method, Price
from tests.recommend.fakes import ask, card, case, flat
from tests.recommend.fakes import parameters as parameters_of

TODAY = date(2026, 11, 26)


class Sample(NamedTuple):
    """As in ``tests/recommend/test_rules.py``."""

    speaks: Case
    number: float
    words: str
    silent: Case


def offer(
    usd: float,
    hours: float,
    *,
    gpu: str = "card-24",
    gpus: int = 1,
    method: Method = "lora",
    gib: float = 10,
    measured: bool = True,
    slowest: float = 2.0,
    **facts: Any,
) -> Rental:
    """So many cards for a run of this money and time; its requirement is ``gib`` of 24 GiB, a tenth more at the most.

    ``slowest``: times as long as it may take. ``facts``: fields of its cost, and of its price.
    """
    price = Price(
        low_usd=facts.pop("low_usd", None),
        typical_usd=usd / hours / gpus,
        hyperscaler_usd=facts.pop("hyperscaler_usd", None),
        as_of=facts.pop("as_of", "2026-10"),
        estimated=facts.pop("estimated", False),
        basis="a guess",
    )
    made = case(ask(gpu=replace(card(), id=gpu, price=price), gpus=gpus), method, estimate=flat(gib)).subject
    step = StepTime(
        seconds=1,
        low=1,
        high=slowest,
        tokens_per_second=1000,
        parts=MappingProxyType(dict.fromkeys(TIME_PARTS, 0.0)),
        bound="compute",
        basis=TimeBasis("published", 5, ("somebody",)) if measured else TimeBasis("stated", 0, (), "like no other"),
    )
    usual: dict[str, Any] = {
        "steps": 100,
        "low_hours": hours / 2,
        "high_hours": hours * slowest,
        "setup_hours": 0.0,
        "usd_low": usd / 4,
        "usd_high": usd * 3,
    }
    cost = Cost(hours=hours, usd=usd, **{**usual, **facts})
    return Rental(
        candidate=replace(made, step=step, cost=cost),
        command="plan",
        needs=Needs(0, 0),
    )


def renting(choice: Rental, *others: Rental, **limits: Any) -> Renting:
    """An offer that was chosen among others."""
    question = RentRequest(request=Request(model="toy", gpu=""), today=TODAY, **limits)
    return Renting(
        ask=ask(),
        subject=choice.candidate,
        candidates=(choice.candidate, *(one.candidate for one in others)),
        chosen=choice.candidate,
        estimate=flat(10),
        question=question,
        choice=choice,
        found=(choice, *others),
    )


def spot(*, asked: bool) -> Renting:
    """An offer with 3 GiB of optimizer states."""
    one = offer(10, 1)
    estimate = one.candidate.estimate
    phases = {**estimate.phases, "optimizer_step": Memory(optimizer=3 * 2**30)}
    changed = replace(one.candidate, estimate=replace(estimate, phases=MappingProxyType(phases)))
    return renting(replace(one, candidate=changed), live=asked, spot=asked)


ADAPTERS = parameters_of(offer(10, 1).candidate.scenario).trainable

MONEY_SAMPLES = {
    "MON001": Sample(
        renting(offer(10, 5, low_usd=1.0, hyperscaler_usd=4.0)),
        4.0,
        "sellers ask $1.00 to $4.00 an hour for Card 24, 4.0 times as much: the run costs $2.50 at the least",
        renting(offer(10, 5, low_usd=1.01)),
    ),
    "MON002": Sample(
        renting(offer(10, 5, as_of="2026-08-27")),
        2.0,
        "the price of $2.00 an hour is 3 months old (2026-08-27), past 90 days",
        renting(offer(10, 5, as_of="2026-08-28")),
    ),
    "MON003": Sample(
        renting(offer(10, 5, estimated=True)),
        2.0,
        "$2.00 an hour for Card 24 is estimated: a guess",
        renting(offer(10, 5)),
    ),
    "MON004": Sample(
        renting(offer(10, 5, setup_hours=1.0)),
        0.2,
        "20 % of the 5 h billed go to downloading and loading the weights",
        renting(offer(10, 5, setup_hours=0.99)),
    ),
    "MON005": Sample(
        renting(offer(10, 5), offer(11, 3, gpus=2), offer(11.1, 2, gpus=4)),
        2.0,
        "2 × card-24 would take 3 h in place of 5 h, for 10 % more money",
        renting(offer(10, 5), offer(11, 3.6, gpus=2), offer(11, 3, gpus=2, method="qlora")),
    ),
    "MON006": Sample(
        renting(offer(10, 5), offer(14, 4, gpus=2), offer(30, 3, gpus=4)),
        1.4,
        "2 × card-24 would cost 1.40 times as much, for 4 h in place of 5 h",
        renting(offer(10, 5), offer(11, 4, gpus=2), offer(30, 3, gpus=4)),
    ),
    "MON007": Sample(
        renting(offer(10, 2), offer(15, 10, gpu="slow")),
        5.0,
        "1 × card-24 at $5.00 an hour costs $10.00; 1 × slow at $1.50 would cost $15.00, in 10 h",
        renting(offer(10, 2), offer(15, 3, gpu="dear"), offer(9, 10, gpu="cheap")),
    ),
    "MON008": Sample(
        spot(asked=True),
        4 * ADAPTERS + 3 * 2**30,
        "of which 3 are planned for on disk",
        spot(asked=False),
    ),
    "MON009": Sample(
        renting(offer(10, 10), offer(21, 7), offer(30, 2), budget_usd=20),
        11.0,
        "the budget of $20.00 rules out 1 × card-24 (lora), $21.00 in 7 h; within it no offer is done before 10 h",
        renting(offer(10, 10), offer(20, 7), offer(21, 5), budget_usd=20),
    ),
    "MON010": Sample(
        renting(offer(10, 10), offer(8, 12.1), deadline_hours=12),
        2.0,
        "without the deadline of 12 h, 1 × card-24 (lora) would save $2.00: $8.00 in 12.1 h",
        renting(offer(10, 10), offer(8, 12.1, gib=23), deadline_hours=12),
    ),
    "MON011": Sample(
        renting(offer(10, 6.1), deadline_hours=12),
        12.2,
        "the run may take 12.2 h, past the deadline of 12 h",
        renting(offer(10, 6), deadline_hours=12, budget_usd=30),
    ),
    "MON012": Sample(
        renting(offer(10, 5), offer(9, 5, method="qlora")),
        1.0,
        "lora for $1.00 more than qlora on 1 × card-24 ($9.00): there, about 5 % of validation loss lost",
        renting(offer(10, 5), offer(9, 5, method="qlora", gib=23)),
    ),
    "MON013": Sample(
        renting(offer(10, 5), offer(9, 5, measured=False), offer(9.5, 5, estimated=True), offer(9.8, 5, gib=23)),
        1.0,
        "1 × card-24 (lora) may cost $9.00, $1.00 less, but its time is estimated (like no other): $18.00 at its "
        "slowest; 1 × card-24 (lora) may cost $9.50, $0.50 less, but its price is estimated; "
        "1 × card-24 (lora) may cost $9.80, $0.20 less, but its memory is tight: up to 25.30 GiB",
        renting(offer(10, 5), offer(9, 5, measured=False, method="qlora")),
    ),
    "MON014": Sample(
        renting(offer(10, 169), offer(40, 160, gpus=2)),
        169.0,
        "and the cheapest offer is not the one to wait for: 2 × card-24 (lora) would take 6.7 days for $40.00",
        renting(offer(10, 168), offer(40, 160, gpus=2)),
    ),
}
