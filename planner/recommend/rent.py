"""Which hardware to rent: every priced card in every number, each method tuned for it, ranked by what the run costs.

Gates first (memory, budget, deadline), then the Pareto front over money, hours, room and quality risk, cheapest first.
There is no score: what is recommended follows from two stated preferences (``_recommended``).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from planner.catalog import load_model
from planner.cost import ASSUMED, disk_bytes, host_bytes, run_cost
from planner.errors import UnsupportedScenario, UsageError
from planner.estimators import Estimator, measured_here
from planner.hardware import list_gpus
from planner.prices import age, staleness
from planner.prices.amounts import parse_hours, parse_usd
from planner.prices.source import is_live
from planner.recommend.candidates import candidate, candidates
from planner.recommend.cards import FULL_MACHINE, MOST_CARDS, counts_of, in_one, is_let, most_capable, served
from planner.recommend.informed import informed
from planner.recommend.nearest import nearest
from planner.recommend.order import preference, worth
from planner.recommend.pareto import front
from planner.recommend.rental import Needs, Rental, RentAnswer, RentRequest
from planner.recommend.request import (
    DEFAULT_STACK,
    Ask,
    Setting,
    check_request,
    on_dataset,
    request_of,
)
from planner.recommend.rules.mon_offers import MONEY, Renting
from planner.recommend.shared import shared_estimator
from planner.recommend.tuning import tuned
from planner.result import Reason, Way
from planner.spec import Cluster, Gpu, Job, Method, Price
from planner.stacks import newer_versions
from planner.units import parse_count, positive, whole

FASTEST_GBPS = 1000.0

DOUBTS = (0, 1, 3)
"""Levels of ``Rental.doubt`` up to which offers are held against each other."""


@dataclass(frozen=True, slots=True)
class Let:
    """So many cards of one kind, which has the price at which they are let."""

    gpu: Gpu
    count: int
    seller: str | None = None
    region: str | None = None


def rent(question: RentRequest) -> RentAnswer:
    """What to rent for the question; raise ``PlannerError`` for what has no meaning."""
    _check(question)
    lets, notes, live = _market(question)
    if not lets:
        raise UsageError("no card has a price: give your profiles a prices.toml, or leave out --profiles")
    best = most_capable(let.gpu for let in lets)
    ask, about = _ask(question, best)
    estimate = shared_estimator()
    methods = _methods(ask, max(let.count for let in lets), estimate)
    found = tuple(_rentals(question, ask, methods, lets, best, estimate))
    ranked = _ranked(one for one in found if one.within(question))
    dates = sorted({let.gpu.price.as_of for let in lets if let.gpu.price})
    answer = RentAnswer(
        question=question,
        model=ask.model,
        offers=ranked,
        others=_others(question, found, ranked),
        recommended=_recommended(ranked),
        nearest=None if ranked else nearest(question, ask, methods, _largest(lets), found, estimate),
        price_as_of=dates[0],
        live=live,
        considered=len(lets),
        notes=(*about, *notes, *_dated(dates, question), *measured_here().notices),
    )
    return replace(answer, reasons=_reasons(answer, ask, found, estimate))


def rent_for(
    *,
    model: str,
    method: Method | tuple[Method, ...] | list[Method] | None = None,
    dataset: str | Path | None = None,
    dataset_tokens: int | str | None = None,
    epochs: float = 1.0,
    job: Job | None = None,
    budget: float | str | None = None,
    deadline: float | str | None = None,
    max_gpus: int = 8,
    prices: str = "snapshot",
    spot: bool = False,
    download_gbps: float | None = None,
    stack: str = DEFAULT_STACK,
    headroom: int | str = 0,
    profiles_dir: str | Path | None = None,
    **settings: Setting,
) -> RentAnswer:
    """``planner.rent(model="70b", dataset_tokens="50M")``: named like the command's options; numbers are US dollars and
    hours. ``job`` says more than tokens and epochs do.
    """
    tokens = parse_count(dataset_tokens) if isinstance(dataset_tokens, str) else dataset_tokens
    if sum(said is not None for said in (job, tokens, dataset)) > 1:
        raise UsageError("job, dataset and dataset_tokens all say how much there is: give one of them")
    request = request_of(
        model=model,
        gpu="any",
        method=method,
        stack=stack,
        headroom=headroom,
        profiles_dir=profiles_dir,
        job=job or Job(tokens=tokens, epochs=epochs),
        settings=settings,
    )
    return rent(
        RentRequest(
            request=request if dataset is None else on_dataset(request, dataset),
            budget_usd=parse_usd(budget) if isinstance(budget, str) else budget,
            deadline_hours=parse_hours(deadline) if isinstance(deadline, str) else deadline,
            max_gpus=max_gpus,
            live=is_live(prices),
            spot=spot,
            assumed=ASSUMED if download_gbps is None else replace(ASSUMED, download_gbps=download_gbps),
        )
    )


# ---------------------------------------------------------------- the question


def _check(question: RentRequest) -> None:
    check_request(question.request)
    whole("--max-gpus", question.max_gpus, 1, MOST_CARDS)
    positive("--download-gbps", question.assumed.download_gbps, FASTEST_GBPS)
    if question.spot and not question.live:
        raise UsageError("--spot needs offers of the moment: add --prices live")
    for option, limit in (("--budget", question.budget_usd), ("--deadline", question.deadline_hours)):
        if limit is None:
            continue
        positive(option, limit)
        if not question.request.job.epoch_tokens:
            raise UsageError(f"{option} needs to know how much there is: add --dataset-tokens 50M or --dataset FILE")
        if question.request.job.task == "rl" and question.request.settings.get("objective", "grpo") != "grpo":
            raise UsageError(f"{option} cannot be held against --task rl: only GRPO's time is modelled")


def _ask(question: RentRequest, gpu: Gpu) -> tuple[Ask, tuple[str, ...]]:
    """The question with its model resolved, on one card for now, and what the reader must know about the names."""
    resolved = load_model(question.request.model)
    cluster = Cluster(gpu=gpu, headroom_bytes=question.request.headroom_bytes)
    request = replace(question.request, gpu=gpu.id, gpus=1, nodes=1)
    data = () if request.dataset is None else request.dataset.notes
    notes = (resolved.line, *resolved.model.notes, *newer_versions(request.stack), *data)
    return informed(Ask(request=request, model=resolved.model, cluster=cluster)), tuple(n for n in notes if n)


# ---------------------------------------------------------------- prices


def _market(question: RentRequest) -> tuple[tuple[Let, ...], tuple[str, ...], bool]:
    """Cards by number with their price, what must be said about prices, and whether these are of the moment."""
    gpus = [gpu for gpu in list_gpus(question.request.profiles_dir) if served(gpu)]
    if question.live:
        from planner.prices.live import Unavailable  # noqa: PLC0415  (who does not ask needs no logging, no sockets)

        try:
            return _live(question, gpus), (), True
        except Unavailable as error:
            serves = "on-demand prices of the snapshot serve" if question.spot else "the snapshot serves"
            return _snapshot(question, gpus), (f"no live prices: {error}; {serves} instead",), False
    return _snapshot(question, gpus), (), False


def _snapshot(question: RentRequest, gpus: Iterable[Gpu]) -> tuple[Let, ...]:
    return tuple(
        Let(replace(gpu, price=price), count)
        for gpu in gpus
        if (price := _ranking_price(gpu.price)) is not None
        for count in counts_of(gpu, question.max_gpus, question.request.network_gbps)
    )


def _live(question: RentRequest, gpus: list[Gpu]) -> tuple[Let, ...]:
    from planner.prices.live import markets  # noqa: PLC0415

    known = {gpu.id: gpu for gpu in gpus}
    found = markets(gpus, today=question.today, spot=question.spot)
    return tuple(
        Let(replace(known[name], price=one.price), count, one.provider, one.region)
        for (name, count), one in found.items()
        if count <= question.max_gpus and is_let(known[name], count, question.request.network_gbps)
    )


def _ranking_price(price: Price | None) -> Price | None:
    """The price with a typical one: where only the lowest is known, that."""
    if price is None or (price.typical_usd is None and price.low_usd is None):
        return None
    return price if price.typical_usd is not None else replace(price, typical_usd=price.low_usd)


def _dated(dates: list[str], question: RentRequest) -> tuple[str, ...]:
    """The age of the prices, and a second line where some are old."""
    spread = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    line = f"prices of {spread} ({age(dates[0], question.today)})"
    old = staleness(dates, question.today)
    return (line,) if old is None else (line, old)


def _largest(lets: tuple[Let, ...]) -> Gpu:
    """The card with most memory that comes in full machines."""
    whole = [let.gpu for let in lets if is_let(let.gpu, FULL_MACHINE)]
    return max(whole or [let.gpu for let in lets], key=lambda gpu: (gpu.memory_bytes, gpu.supports_bf16))


# ---------------------------------------------------------------- the search


def _rentals(
    question: RentRequest,
    ask: Ask,
    methods: tuple[Method, ...],
    lets: tuple[Let, ...],
    best: Gpu,
    estimate: Estimator,
) -> Iterator[Rental]:
    """Every card, number and method that runs, tuned; those whose weights alone are too large are not tried."""
    counts = {let.count for let in lets}
    least = {
        (one, count): _weights(ask.on(in_one(best, count), count), one, estimate) for one in methods for count in counts
    }
    for let in lets:
        for method in methods:
            asked = ask.on(let.gpu, let.count)
            if least[method, let.count] > asked.cluster.usable_bytes:
                continue
            found = tuned(asked, method, estimate)
            if found is not None and found.candidate.step is not None:
                yield _rental(question, let, found)


def _methods(ask: Ask, most: int, estimate: Estimator) -> tuple[Method, ...]:
    """Methods in question: those named, else what data, task and size of the model make worth paying for."""
    try:
        found, _ = candidates(ask, estimate)
    except UnsupportedScenario:
        if ask.request.methods and not _runs_on_several(ask, most, estimate):
            raise
        return ask.methods
    return worth(ask, found, preference(ask, found))


def _runs_on_several(ask: Ask, count: int, estimate: Estimator) -> bool:
    """Whether trainers that have no recipe for one card have one for ``count`` of them."""
    try:
        return bool(candidates(ask.on(in_one(ask.cluster.gpu, count), count), estimate)[0])
    except UnsupportedScenario:
        return False


def _weights(ask: Ask, method: Method, estimate: Estimator) -> int:
    """Bytes of weights on each card when they are divided among all: no open setting makes them fewer."""
    try:
        return candidate(ask, method, estimate).estimate.phases["optimizer_step"].weights
    except UnsupportedScenario:
        return 0


def _rental(question: RentRequest, let: Let, way: Way) -> Rental:
    one, job = way.candidate, question.request.job
    scenario = one.scenario
    cost = run_cost(scenario, one.estimate, one.step, job, question.assumed)
    return Rental(
        candidate=replace(one, cost=cost),
        command=way.command,
        needs=Needs(host_bytes(scenario, one.estimate), disk_bytes(scenario, one.estimate, job, question.assumed)),
        seller=let.seller,
        region=let.region,
    )


# ---------------------------------------------------------------- the order


def _ranked(found: Iterable[Rental]) -> tuple[Rental, ...]:
    """The Pareto front, cheapest first; of equal price the sooner, then the roomier.

    Those that an offer beats whose time or price is only estimated stay in it: an estimate cuts nothing but estimates.
    """
    ordered = sorted(found, key=lambda one: (*one.costs(), one.gpu, one.gpus, one.method))
    pools = ([one for one in ordered if one.doubt <= doubt] for doubt in DOUBTS)
    kept = {id(one) for pool in pools for one in front(pool, Rental.costs)}
    return tuple(one for one in ordered if id(one) in kept)


def _recommended(offers: tuple[Rental, ...]) -> int | None:
    """Which of the offers, cheapest first, to take.

    Those that fit by their upper bound come before those that do not; of these, those whose time is measured and whose
    price is listed before those whose price is listed before all others. But what would be taken before the best of
    these even at its slowest is taken before it.
    """
    if not offers:
        return None
    fitting = [one for one in offers if one.room]
    pools = ([one for one in fitting if one.doubt <= doubt] for doubt in DOUBTS)
    sure = _preferred(next((kept for kept in pools if kept), offers))
    surer = [one for one in fitting if not one.price.estimated and one.beats_at_slowest(sure)]
    return offers.index(_preferred(surer) if surer else sure)


def _preferred(offers: Sequence[Rental]) -> Rental:
    """The cheapest, unless a method with less quality risk costs little more."""
    most = offers[0].worth_quality(offers[0].usd)
    return min((one for one in offers if one.usd <= most), key=lambda one: (one.risk, one.usd))


def _others(question: RentRequest, found: tuple[Rental, ...], ranked: tuple[Rental, ...]) -> tuple[Rental, ...]:
    """The best of every kind of card that has no place on the front: within the limits first, then cheapest."""
    shown = {one.gpu for one in ranked}
    best: dict[str, Rental] = {}
    for one in sorted(found, key=lambda one: (not one.within(question), one.room == 0, *one.costs())):
        if one.gpu not in shown:
            best.setdefault(one.gpu, one)
    return tuple(sorted(best.values(), key=lambda one: (not one.within(question), one.usd)))


# ---------------------------------------------------------------- reasons


def _reasons(answer: RentAnswer, ask: Ask, found: tuple[Rental, ...], estimate: Estimator) -> tuple[Reason, ...]:
    """What the rules about money say of the recommended offer, warnings first."""
    choice = answer.choice
    if choice is None:
        return ()
    case = Renting(
        ask=ask,
        subject=choice.candidate,
        candidates=tuple(one.candidate for one in answer.offers),
        chosen=choice.candidate,
        estimate=estimate,
        question=replace(answer.question, spot=answer.question.spot and answer.live),
        choice=choice,
        found=found,
    )
    reasons = [reason for rule in MONEY if (reason := rule.check(case)) is not None]
    return tuple(sorted(reasons, key=lambda reason: (reason.severity != "warning", reason.code)))
