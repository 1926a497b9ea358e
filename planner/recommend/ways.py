"""Ways out of a request in which nothing fits with its margin: each recomputed, each with the command that shows it."""

from dataclasses import dataclass

from planner.recommend.changes import RANKS, changes, other_methods
from planner.recommend.offers import more_cards, other_cards, rank
from planner.recommend.request import Ask, Estimator
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

    None are needed where a candidate fits, and no other hardware where one is tight and a change helps.
    """
    best = max(candidates, key=lambda one: RANKS[one.verdict])
    if best.verdict == "fits":
        return Ways()
    found = [*other_methods(ask, best, estimate)]
    for start in sorted(candidates, key=lambda one: _place(one, worth)):
        found += [one for one in changes(ask, start, estimate) if RANKS[one.candidate.verdict] > RANKS[best.verdict]]
    found.sort(key=lambda one: len(one.settings.keys() - {"method"}))
    settled = bool(found) and best.verdict == "tight"
    return Ways(changes=tuple(found[:MAX_CHANGES]), rent=() if settled else rent(ask, worth, estimate))


def rent(ask: Ask, worth: tuple[Method, ...], estimate: Estimator) -> tuple[Way, ...]:
    """More of these cards, then other cards, cheapest first; of each method at least the cheapest."""
    more = [one for method in worth for one in more_cards(ask, method, estimate)]
    by_method = [other_cards(ask, method, estimate) for method in worth]
    first = [offers[0] for offers in by_method if offers]
    rest = rank(one for offers in by_method for one in offers[1:])
    kept = [*first, *rest[: max(MAX_OTHER_CARDS - len(first), 0)]]
    return (*sorted(more, key=lambda one: one.gpus), *rank(kept))


def _place(candidate: Candidate, worth: tuple[Method, ...]) -> int:
    method = candidate.scenario.train.method
    return worth.index(method) if method in worth else len(worth)
