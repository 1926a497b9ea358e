"""The choice: gates first, then capacity, then preference; with the reasons, and the ways out where nothing fits.

Gates and preferences are rules with codes; there is no score. Method first, then its open settings for speed.
"""

from contextlib import suppress
from dataclasses import replace
from itertools import product

from planner.errors import UnsupportedScenario
from planner.estimators import Estimator
from planner.recommend.alternatives import alternatives
from planner.recommend.changes import RANKS, as_way
from planner.recommend.order import preference, worth
from planner.recommend.request import Ask
from planner.recommend.rules import RULES, Case
from planner.recommend.thresholds import thresholds
from planner.recommend.tuning import GOALS, first_tuned, offloaded
from planner.recommend.ways import Ways, ways
from planner.result import Candidate, Reason, Recommendation, Way
from planner.spec import Method

BINDING = ("FIT004", "FIT006", "QLT001", "QLT002", "QLT010", "QLT012", "QLT013", "QLT019")
"""Rules that decide; their reasons come first."""


def recommend(
    candidates: tuple[Candidate, ...], ask: Ask, estimate: Estimator
) -> tuple[tuple[Candidate, ...], Recommendation]:
    """The candidates, the chosen one appended where its settings are not those asked for, and the recommendation."""
    order = preference(ask, candidates)
    found = ways(ask, candidates, worth(ask, candidates, order), estimate)
    chosen = choose(candidates, order, ask, estimate)
    if chosen is not None:
        asked = next(one for one in candidates if one.method == chosen.candidate.method)
        turned = RANKS[asked.verdict] < RANKS[chosen.candidate.verdict]
        candidates, chosen = _with(candidates, chosen)
        found = found.led_by(chosen) if turned else found
    taken = None if chosen is None else chosen.candidate
    method = None if taken is None else taken.scenario.train.method
    return candidates, Recommendation(
        candidate=None if taken is None else next(place for place, one in enumerate(candidates) if one is taken),
        reasons=_reasons(candidates, taken, ask, found, estimate),
        command=None if chosen is None else chosen.command,
        alternatives=() if chosen is None else alternatives(ask, chosen, order, estimate),
        thresholds=thresholds(_as_chosen(ask, chosen), candidates, method, estimate),
        changes=found.changes,
        rent=found.rent,
    )


def _as_chosen(ask: Ask, chosen: Way | None) -> Ask:
    """The question with the offloading of the choice, without which nothing runs here, and with its method alone."""
    if chosen is None or not chosen.candidate.scenario.train.offload or "offload" in ask.request.settings:
        return ask
    train = chosen.candidate.scenario.train
    open_ = [name for name in ("sharding", "offload") if name not in ask.request.settings]
    return ask.planning({name: getattr(train, name) for name in open_}).using(train.method, {})


def choose(candidates: tuple[Candidate, ...], order: tuple[Method, ...], ask: Ask, estimate: Estimator) -> Way | None:
    """The first method that fits, else the first that is tight, with its open settings set for speed.

    Of methods that only a trace knows, the candidates as asked. Where nothing runs, with states in host memory.
    """
    ranked = sorted(candidates, key=lambda one: order.index(one.scenario.train.method))
    methods = tuple(one.scenario.train.method for one in ranked)
    found = first_tuned(ask, methods, estimate)
    if found is not None:
        return found
    runs = (one for goal, one in product(GOALS, ranked) if RANKS[one.verdict] >= RANKS[goal])
    asked = next((as_way(ask, ask.using(one.scenario.train.method, {}), one) for one in runs), None)
    return asked or offloaded(ask, worth(ask, candidates, order), estimate)


def _with(candidates: tuple[Candidate, ...], chosen: Way) -> tuple[tuple[Candidate, ...], Way]:
    """The candidates with the chosen one among them: the one that was asked for where they are the same."""
    same = next((one for one in candidates if one.scenario == chosen.candidate.scenario), None)
    if same is None:
        return (*candidates, chosen.candidate), chosen
    return candidates, replace(chosen, candidate=same)


def _reasons(
    candidates: tuple[Candidate, ...], chosen: Candidate | None, ask: Ask, found: Ways, estimate: Estimator
) -> tuple[Reason, ...]:
    """What every rule says: deciding reasons first, then warnings, then the rest, by code."""
    subject = chosen or min(candidates, key=lambda one: one.estimate.peak.required_bytes)
    looked = None if chosen else found.rent + found.changes
    reasons = []
    for rule in RULES:
        for one in candidates if rule.scope == "each" else (subject,):
            case = Case(ask=ask, subject=one, candidates=candidates, chosen=chosen, estimate=estimate, ways=looked)
            with suppress(UnsupportedScenario):  # a rule may not know: what it would compare has no closed form
                if (reason := rule.check(case)) is not None:
                    reasons.append(reason)
    return tuple(sorted(reasons, key=_rank))


def _rank(reason: Reason) -> tuple[int, str]:
    if reason.code in BINDING:
        return 0, reason.code
    return (1 if reason.severity == "warning" else 2), reason.code
