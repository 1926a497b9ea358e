"""Where no offer will do: one line with the limit that cannot be kept, and what is nearest to it."""

from collections.abc import Sequence
from itertools import product

from planner.errors import UnsupportedScenario
from planner.estimators import Estimator
from planner.prices.amounts import dollars, spell_hours
from planner.recommend.candidates import candidate
from planner.recommend.cards import MOST_CARDS, counts_of
from planner.recommend.rental import Rental, RentRequest
from planner.recommend.request import Ask
from planner.recommend.tuning import tuned
from planner.spec import Gpu, Method

ADAPTERS: tuple[Method, ...] = ("lora", "qlora")
"""Methods that need less memory, the better one first."""


def nearest(
    question: RentRequest,
    ask: Ask,
    methods: tuple[Method, ...],
    largest: Gpu,
    found: tuple[Rental, ...],
    estimate: Estimator,
) -> str:
    """The line; ``largest`` is the card with most memory, ``found`` all offers that have the memory."""
    if not found:
        return _too_large(question, ask, methods, largest, estimate)
    cheapest = min(found, key=lambda one: (one.usd, one.hours))
    fastest = min(found, key=lambda one: (one.hours, one.usd))
    budget, deadline = question.budget_usd, question.deadline_hours
    if budget is not None and cheapest.usd > budget:
        return f"no offer costs {dollars(budget)} or less: the cheapest is {_told(cheapest)}"
    if deadline is not None and fastest.hours > deadline:
        return f"no offer is done within {spell_hours(deadline)}: the fastest is {_told(fastest)}"
    sooner = min((one for one in found if one.hours <= (deadline or 0)), key=lambda one: one.usd, default=fastest)
    later = min((one for one in found if one.usd <= (budget or 0)), key=lambda one: one.hours, default=cheapest)
    return (
        f"no offer keeps both {dollars(budget or 0)} and {spell_hours(deadline or 0)}: the cheapest in time is "
        f"{_told(sooner)}, the fastest within the budget {_told(later)}"
    )


def _too_large(question: RentRequest, ask: Ask, methods: tuple[Method, ...], largest: Gpu, estimate: Estimator) -> str:
    """What has the memory: another method on as many cards, or more of the largest."""
    most = "one card" if question.max_gpus == 1 else f"up to {question.max_gpus} cards"
    named = " or ".join(methods)
    line = f"nothing that can be rented in {most} has the memory for {named} of {ask.model.name}"
    wider = _more(question, ask, methods, largest, estimate)
    others = (one for one in ADAPTERS if one not in methods)
    let = counts_of(largest, question.max_gpus, question.request.network_gbps)[-1]
    _refuse_unplanned([ask.on(largest, count) for count in (1, let)], methods, estimate)
    other = next((one for one in others if _fits(ask, one, largest, let, estimate)), None)
    said = [] if other is None else [f"{other} fits on {let} × {largest.id} (--method {other})"]
    said += [] if wider is None else [f"{wider[0]} on {wider[1]} (--max-gpus {wider[1]})"]
    all_of_them = counts_of(largest, MOST_CARDS, question.request.network_gbps)[-1]
    return f"{line}: {', '.join(said) or f'nor would {all_of_them} × {largest.id}; try a shorter --seq-len'}"


def _refuse_unplanned(asked: Sequence[Ask], methods: tuple[Method, ...], estimate: Estimator) -> None:
    """Raise what is refused of every method on any number of cards: then memory is not what is missing."""
    refused: list[UnsupportedScenario] = []
    for one, method in product(asked, methods):
        try:
            candidate(one, method, estimate)
        except UnsupportedScenario as error:
            refused.append(error)
        else:
            return
    raise refused[0]


def _more(
    question: RentRequest, ask: Ask, methods: tuple[Method, ...], largest: Gpu, estimate: Estimator
) -> tuple[Method, int] | None:
    """The first method that fits on more of the largest cards, and the least number in full machines, doubled."""
    let = counts_of(largest, MOST_CARDS, question.request.network_gbps)
    machine = min(largest.gpus_per_node, let[-1])
    more = (count for count in let if count >= machine and count > question.max_gpus)
    return next(
        ((one, count) for count in more for one in methods if _fits(ask, one, largest, count, estimate)),
        None,
    )


def _fits(ask: Ask, method: Method, gpu: Gpu, count: int, estimate: Estimator) -> bool:
    try:
        asked = ask.on(gpu, count)
        if candidate(asked, method, estimate).verdict != "does_not_fit":
            return True
        return tuned(asked, method, estimate) is not None
    except UnsupportedScenario:
        return False


def _told(one: Rental) -> str:
    return f"{dollars(one.usd)} in {spell_hours(one.hours)} ({one.method} on {one.named})"
