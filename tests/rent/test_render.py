"""What a rent answer looks like, from offers made by hand: numbers of the models do not change these files."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from planner.recommend.rental import Needs, Rental, RentAnswer, RentRequest
from planner.recommend.request import Request
from planner.render.lines import Screen, plain
from planner.render.rent import rent_lines, rent_markdown
from planner.render.rent_document import rent_document
from planner.result import Reason
from planner.spec import Job
from planner.units import GIB
from tests.recommend.fakes import llama
from tests.rent.money_samples import TODAY, offer

Golden = Callable[[str, str], None]


def machine(one: Rental, **changes: Any) -> Rental:
    return replace(one, needs=Needs(40 * GIB, 120 * GIB), command="plan --model toy --gpu card-24 --gpus 2", **changes)


def made(**changes: Any) -> RentAnswer:
    """Three offers, of which the second is recommended, and two other cards, one of them past the budget."""
    asked = Request(model="toy", gpu="", job=Job(tokens=50_000_000, epochs=2))
    facts: dict[str, Any] = {
        "question": RentRequest(request=asked, budget_usd=40, deadline_hours=12, today=TODAY),
        "model": llama(),
        "offers": (
            machine(offer(9, 11, method="qlora", measured=False)),
            machine(offer(10, 5, gpus=2)),
            machine(offer(30, 1.5, gpus=8, gib=23, hyperscaler_usd=9.0)),
        ),
        "others": (machine(offer(20, 8, gpu="other", estimated=True)), machine(offer(50, 9, gpu="dear"))),
        "recommended": 1,
        "reasons": (
            Reason(code="MON011", text="the run may take 13 h", number=13, unit="hours", severity="warning"),
            Reason(code="MON012", text="lora for $1.00 more than qlora", number=1, unit="usd"),
        ),
        "price_as_of": "2026-10",
        "considered": 20,
        "notes": ("prices of 2026-10 (2 months old)",),
    }
    return RentAnswer(**{**facts, **changes})


@pytest.mark.parametrize("width", [60, 80, 120])
def test_text(golden: Golden, width: int) -> None:
    screen = Screen(width=width)

    golden(f"rent_{width}.txt", plain(rent_lines(made(), screen), screen))


def test_markdown(golden: Golden) -> None:
    golden("rent.md", rent_markdown(made()))


def test_live_offers_name_their_seller() -> None:
    one = machine(offer(10, 5), seller="runpod", region="EU-RO-1")
    screen = Screen(width=140)
    text = plain(rent_lines(made(offers=(one,), others=(), recommended=0, live=True), screen), screen)

    assert "runpod EU-RO-1" in text


def test_no_offer_is_one_line_in_bad_colour() -> None:
    screen = Screen()
    lines = rent_lines(made(offers=(), others=(), recommended=None, nearest="no offer costs $1.00 or less"), screen)

    assert any(cell.tone == "bad" and cell.text == "no offer costs $1.00 or less" for line in lines for cell in line)


def test_what_text_cuts_is_counted() -> None:
    many = tuple(machine(offer(10 + n, 20 - n)) for n in range(15))
    screen = Screen()
    text = plain(rent_lines(made(offers=many, recommended=0), screen), screen)

    assert "4 more offers that no other beats in everything: --format json" in text
    assert "24.00" in text  # the soonest is the last and stays


def test_the_document_says_how_old_prices_are() -> None:
    fresh = rent_document(made())
    old = rent_document(made(price_as_of="2026-01"))

    assert fresh["prices"] == {
        "source": "snapshot",
        "asked": "snapshot",
        "spot": False,
        "as_of": "2026-10",
        "age_days": 56,
        "old": False,
    }
    assert old["prices"]["old"]
    assert [one["within"] for one in fresh["others"]] == [True, False]
    assert fresh["offers"][2]["usd_per_hour"]["hyperscaler"] == 72.0
