"""Ways out of a request in which nothing fits with its margin: each recomputed, each with the command that shows it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from planner.estimators import Estimator
from planner.recommend.changes import RANKS, SHORTEST, changes, other_methods
from planner.recommend.offers import RENTED_MACHINES, more_cards, other_cards, rank
from planner.recommend.request import Ask
from planner.result import Candidate, Way
from planner.spec import Method

MAX_CHANGES = 6
MAX_OTHER_CARDS = 6


@dataclass(frozen=True, kw_only=True)
class Ways:
    """Changes on the hardware at hand, and hardware that makes the request run as it is."""

    changes: tuple[Way, ...] = ()
    rent: tuple[Way, ...] = ()

    def led_by(self, chosen: Way) -> "Ways":
        """The same with the recommended change first, so that its command is at hand."""
        others = tuple(one for one in self.changes if one.command != chosen.command)
        return Ways(changes=(chosen, *others)[:MAX_CHANGES], rent=self.rent)


def ways(ask: Ask, candidates: tuple[Candidate, ...], worth: tuple[Method, ...], estimate: Estimator) -> Ways:
    """Ways out for the methods in ``worth``, best method first.

    None are needed where a candidate fits, and no other hardware where one is tight and a change helps. Hardware is
    looked for as asked first; for less work per card only where nothing else helps.
    """
    best = max(candidates, key=lambda one: RANKS[one.verdict])
    if best.verdict == "fits":
        return Ways()
    found = [*other_methods(ask, best, estimate)]
    for start in sorted(candidates, key=lambda one: _place(one, worth)):
        found += [one for one in changes(ask, start, estimate) if RANKS[one.candidate.verdict] > RANKS[best.verdict]]
    found.sort(key=lambda one: len(one.settings.keys() - {"method"}))
    settled = bool(found) and best.verdict == "tight"
    rented = () if settled else rent(ask, worth, estimate)
    if not found and all(one.gpu != ask.cluster.gpu.id for one in rented):
        rented = (*_with_less(ask, candidates, worth, estimate, own=bool(rented)), *rented)
    return Ways(changes=tuple(found[:MAX_CHANGES]), rent=rented)


def rent(ask: Ask, worth: tuple[Method, ...], estimate: Estimator) -> tuple[Way, ...]:
    """More of these cards, then other cards, cheapest first; of each method at least the cheapest."""
    own = more(ask, worth, estimate)
    by_method = [other_cards(ask, method, estimate) for method in worth]
    if not any(by_method):
        by_method = [other_cards(ask, method, estimate, RENTED_MACHINES) for method in worth]
    first = [offers[0] for offers in by_method if offers]
    rest = rank(one for offers in by_method for one in offers[1:])
    kept = [*first, *rest[: max(MAX_OTHER_CARDS - len(first), 0)]]
    return (*own, *rank(kept))


def more(ask: Ask, worth: tuple[Method, ...], estimate: Estimator) -> tuple[Way, ...]:
    """More of these cards, fewest first."""
    return tuple(
        sorted((one for method in worth for one in more_cards(ask, method, estimate)), key=lambda one: one.gpus)
    )


def _with_less(
    ask: Ask, candidates: tuple[Candidate, ...], worth: tuple[Method, ...], estimate: Estimator, *, own: bool
) -> tuple[Way, ...]:
    """Hardware for a request that asks each card for less; with ``own`` only more of the same cards."""
    for settings in _lighter(candidates[0]):
        found = (more if own else rent)(ask.setting(settings), worth, estimate)
        if found:
            return tuple(replace(one, settings={**one.settings, **settings}) for one in found)
    return ()


def _lighter(start: Candidate) -> Iterator[Mapping[str, int]]:
    """Less and less work per card: the batch in single sequences, then recomputed, then with ever shorter ones."""
    train = start.scenario.train
    settings: dict[str, int] = {}
    if train.micro_batch_size > 1:
        settings = {"micro_batch_size": 1, "grad_accumulation": train.micro_batch_size * train.grad_accumulation}
        yield dict(settings)
    if not train.gradient_checkpointing:
        settings["gradient_checkpointing"] = True
        yield dict(settings)
    length = train.seq_len // 2
    while length >= SHORTEST:
        yield {**settings, "seq_len": length}
        length //= 2


def _place(candidate: Candidate, worth: tuple[Method, ...]) -> int:
    method = candidate.scenario.train.method
    return worth.index(method) if method in worth else len(worth)
