"""The choice: gates first, then capacity, then preference; with the reasons, and the ways out where nothing fits.

Gates and preferences are rules with codes; there is no score. Method first, then its open settings for speed.
"""

from contextlib import suppress
from dataclasses import replace

from planner.errors import UnsupportedScenario
from planner.estimators import Estimator
from planner.recommend.alternatives import alternatives
from planner.recommend.changes import RANKS, adapted, as_way
from planner.recommend.order import preference, worth
from planner.recommend.request import Ask
from planner.recommend.rules import RULES, Case
from planner.recommend.thresholds import thresholds
from planner.recommend.tuning import tuned
from planner.recommend.ways import Ways, ways
from planner.result import Candidate, Reason, Recommendation, Verdict, Way
from planner.spec import Method

BINDING = ("FIT004", "FIT006", "QLT001", "QLT002")
"""Rules that decide; their reasons come first."""


def recommend(
    candidates: tuple[Candidate, ...], ask: Ask, estimate: Estimator
) -> tuple[tuple[Candidate, ...], Recommendation]:
    """The candidates, the chosen one appended where its settings are not those asked for, and the recommendation."""
    order = preference(ask, candidates)
    mild = choose(candidates, order, ask, estimate)
    found = ways(ask, candidates, worth(ask, candidates, order), estimate)
    chosen = None if mild is None else _tuned(ask, mild, estimate)
    if chosen is not None:
        candidates, chosen = _with(candidates, chosen)
        found = found.led_by(chosen) if isinstance(mild, Way) else found
    taken = None if chosen is None else chosen.candidate
    return candidates, Recommendation(
        candidate=None if taken is None else next(place for place, one in enumerate(candidates) if one is taken),
        reasons=_reasons(candidates, taken, ask, found, estimate),
        command=None if chosen is None else chosen.command,
        alternatives=() if chosen is None else alternatives(ask, chosen, order, estimate),
        thresholds=thresholds(ask, candidates, None if taken is None else taken.scenario.train.method, estimate),
        changes=found.changes,
        rent=found.rent,
    )


def choose(
    candidates: tuple[Candidate, ...], order: tuple[Method, ...], ask: Ask, estimate: Estimator
) -> Candidate | Way | None:
    """The first method that fits, else the first that is tight.

    A candidate as asked, or the way to one with open settings changed that learning does not feel.
    """
    ranked = sorted(candidates, key=lambda one: order.index(one.scenario.train.method))
    goals: tuple[Verdict, ...] = ("fits", "tight")
    for goal in goals:
        for one in ranked:
            if RANKS[one.verdict] >= RANKS[goal]:
                return one
            if (changed := adapted(ask, one, goal, estimate)) is not None:
                return changed
    return None


def _tuned(ask: Ask, mild: Candidate | Way, estimate: Estimator) -> Way:
    """The chosen method with open settings set for speed; as it is where an adapter's file is the question."""
    method: Method = (mild.candidate if isinstance(mild, Way) else mild).scenario.train.method
    found = None if "peft_config" in ask.request.settings else tuned(ask, method, estimate)
    if found is not None:
        return found
    return mild if isinstance(mild, Way) else as_way(ask, ask.using(method, {}), mild)


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
