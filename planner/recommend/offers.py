"""Other amounts of hardware: more of the same cards, and other cards that can be rented."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from planner.errors import UnsupportedScenario
from planner.estimators import Estimator
from planner.hardware import list_gpus, load_gpu
from planner.recommend.candidates import judged
from planner.recommend.cards import MOST_CARDS, in_one, is_let, most_capable, numbers, served
from planner.recommend.changes import RANKS, hourly, way
from planner.recommend.request import Ask, Setting
from planner.result import Verdict, Way
from planner.spec import SHARDS_WEIGHTS, Gpu, Method

RENTED_COUNTS = (1, 2, 4, 8)
"""Cards per machine as clouds sell them."""
RENTED_MACHINES = (16, 32, 64, 128)
"""Cards in several machines: looked at only where one machine of no kind is enough."""
OFFERS_PER_METHOD = 2
GOALS: tuple[Verdict, ...] = ("tight", "fits")


@dataclass(frozen=True)
class Offer:
    """So many cards of one kind, and what they cost per hour; ``usd`` is the typical price, else the low one."""

    gpu: Gpu
    count: int
    usd: float


def more_cards(ask: Ask, method: Method, estimate: Estimator) -> tuple[Way, ...]:
    """The smallest number of these cards that fits, and a smaller one that is tight, where there are such."""
    kind = as_sold(ask)
    if kind is None:
        return ()
    found: dict[Verdict, tuple[int, str]] = {}
    for sharding in _shardings(ask):
        for goal in GOALS:
            below = found[goal][0] if goal in found else MOST_CARDS + 1
            count = _smallest(ask, kind, method, sharding, goal, below, estimate)
            if count is not None:
                found[goal] = (count, sharding)
    if found.get("tight", (0, ""))[0] >= found.get("fits", (MOST_CARDS + 1, ""))[0]:
        del found["tight"]  # no fewer cards, and less room
    pairs = dict.fromkeys(found.values())
    return tuple(way(ask, sharded(ask, kind, count, sharding, method), estimate) for count, sharding in pairs)


def as_sold(ask: Ask) -> Gpu | None:
    """The card as it can be had more than once: for one that is here its profile; a processor has no equals."""
    gpu = ask.cluster.gpu
    if gpu.is_cpu:
        return None
    return gpu if gpu.profile is None else load_gpu(gpu.profile, ask.request.profiles_dir)


def other_cards(
    ask: Ask, method: Method, estimate: Estimator, counts: tuple[int, ...] = RENTED_COUNTS
) -> tuple[Way, ...]:
    """The cheapest other cards that fit, single and several of a kind; one that is tight where it is cheaper still."""
    offers = tuple(_affordable(ask, method, estimate, counts))
    single = _cheapest(ask, (offer for offer in offers if offer.count == 1), method, estimate)
    several = _cheapest(ask, (offer for offer in offers if offer.count > 1), method, estimate)
    return (*single, *several)


def sharded(ask: Ask, gpu: Gpu, count: int, sharding: str, method: Method) -> Ask:
    """``count`` cards with the states divided among them; quant storage is left to the plan."""
    settings: dict[str, Setting] = {}
    if count > 1:
        settings["sharding"] = sharding
        if method == "qlora" and ask.request.settings.get("quant_storage") == "uint8":
            settings["quant_storage"] = "bf16" if gpu.supports_bf16 else "fp16"
    elif "sharding" in ask.request.settings:
        settings["sharding"] = "none"
    return ask.on(gpu, count).using(method, settings)


def servable(ask: Ask, gpu: Gpu) -> bool:
    """Whether current torch wheels serve the card, and it is of a maker whose software the user runs."""
    return served(gpu) and gpu.vendor in ("nvidia", ask.cluster.gpu.vendor)


def rank(ways: Iterable[Way]) -> tuple[Way, ...]:
    """Single cards before several; of each, cheapest first, then most memory; unpriced last."""

    def order(one: Way) -> tuple[bool, float, int, str]:
        low, typical = one.usd_per_hour
        price = next((usd for usd in (typical, low) if usd is not None), float("inf"))
        memory = one.candidate.scenario.cluster.gpu.memory_bytes * one.gpus
        return one.gpus > 1, price, -memory, one.command

    return tuple(sorted(ways, key=order))


def _shardings(ask: Ask) -> tuple[str, ...]:
    """Kinds of sharding that divide weights among all cards: the user's own where it divides them, else both."""
    asked = ask.request.settings.get("sharding")
    return (str(asked),) if asked in SHARDS_WEIGHTS else ("fsdp", "zero3")


def _smallest(
    ask: Ask, kind: Gpu, method: Method, sharding: str, goal: Verdict, below: int, estimate: Estimator
) -> int | None:
    """Fewest cards, more than asked for and less than ``below``, whose verdict is ``goal`` or better.

    A shard never grows with their number.
    """

    def reaches(count: int) -> bool:
        found = judged(sharded(ask, kind, count, sharding, method), method, estimate)
        return found is not None and RANKS[found.verdict] >= RANKS[goal]

    for counts in numbers(kind, ask.request.network_gbps):
        more = [count for count in counts if ask.cluster.world_size < count < below]
        if more and reaches(more[-1]):
            return _first(more, reaches)
    return None


def _first(counts: list[int], reaches: Callable[[int], bool]) -> int:
    low, high = 0, len(counts) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(counts[middle]) else (middle + 1, high)
    return counts[low]


def _cheapest(ask: Ask, offers: Iterable[Offer], method: Method, estimate: Estimator) -> tuple[Way, ...]:
    """The first few of ``offers``, which come cheapest first, that fit; before them one that is tight."""
    fitting: dict[str, Way] = {}
    tight: list[Way] = []
    for offer in offers:
        if len(fitting) == OFFERS_PER_METHOD:
            break
        found = None if offer.gpu.id in fitting else _try(ask, offer, method, estimate)
        if found and found.candidate.verdict == "fits":
            fitting[offer.gpu.id] = found
        elif found and found.candidate.verdict == "tight" and not (fitting or tight):
            tight.append(found)
    return (*tight, *fitting.values())


def _affordable(ask: Ask, method: Method, estimate: Estimator, counts: tuple[int, ...]) -> Iterator[Offer]:
    """Offers that could do, cheapest first, then most memory.

    Facts of the hardware index decide: memory against the bytes that the step allocates on the most
    capable card of all, which no other card undercuts.
    """
    gpus = [gpu for gpu in list_gpus(ask.request.profiles_dir) if _rentable(ask, gpu)]
    if not gpus:
        return
    best = most_capable(gpus)
    least = {count: _allocated(ask, best, count, method, estimate) for count in counts}
    offers = [
        Offer(gpu, count, usd)
        for gpu in gpus
        for count, bytes_ in least.items()
        if is_let(gpu, count, ask.request.network_gbps)
        and bytes_ is not None
        and bytes_ <= gpu.memory_bytes
        and (usd := _usd(gpu, count)) is not None
    ]
    yield from sorted(offers, key=lambda offer: (offer.usd, -offer.gpu.memory_bytes * offer.count, offer.gpu.id))


def _rentable(ask: Ask, gpu: Gpu) -> bool:
    """Another card, with a price, that can be planned for."""
    same = gpu.id in (ask.cluster.gpu.id, ask.cluster.gpu.represents)
    return gpu.price is not None and not same and servable(ask, gpu)


def _usd(gpu: Gpu, count: int) -> float | None:
    low, typical = hourly(gpu, count)
    return low if typical is None else typical


def _allocated(ask: Ask, gpu: Gpu, count: int, method: Method, estimate: Estimator) -> int | None:
    found = judged(sharded(ask, in_one(gpu, count), count, _shardings(ask)[0], method), method, estimate)
    return None if found is None else found.estimate.peak.allocated_bytes


def _try(ask: Ask, offer: Offer, method: Method, estimate: Estimator) -> Way | None:
    try:
        return way(ask, sharded(ask, offer.gpu, offer.count, _shardings(ask)[0], method), estimate)
    except UnsupportedScenario:
        return None
