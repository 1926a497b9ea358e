"""The choice: gates first, then capacity, then preference; with the reasons, and the ways out where nothing fits.

Gates and preferences are rules with codes; there is no score. Time, money and data do not enter yet.
"""

from contextlib import suppress

from planner.errors import UnsupportedScenario
from planner.estimators import Estimator
from planner.recommend.changes import NEUTRAL, RANKS, changes
from planner.recommend.request import Ask
from planner.recommend.rules import RULES, Case
from planner.recommend.rules.qlt import SMALL_MODEL
from planner.recommend.rules.qnt import MOSTLY
from planner.recommend.ways import Ways, ways
from planner.result import Candidate, Reason, Recommendation, Verdict, Way
from planner.spec import Method

BINDING = ("FIT004", "FIT006", "QLT001", "QLT002")
"""Rules that decide; their reasons come first."""


def recommend(
    candidates: tuple[Candidate, ...], ask: Ask, estimate: Estimator
) -> tuple[tuple[Candidate, ...], Recommendation]:
    """The candidates, the chosen one appended where its settings are not those asked for, and the recommendation."""
    order = preference(candidates)
    chosen = choose(candidates, order, ask, estimate)
    found = ways(ask, candidates, worth(ask, candidates, order), estimate)
    if isinstance(chosen, Way):
        candidates, found = (*candidates, chosen.candidate), found.led_by(chosen)
    taken = chosen.candidate if isinstance(chosen, Way) else chosen
    reasons = _reasons(candidates, taken, ask, found, estimate)
    index = None if taken is None else next(place for place, one in enumerate(candidates) if one is taken)
    return candidates, Recommendation(candidate=index, reasons=reasons, changes=found.changes, rent=found.rent)


def preference(candidates: tuple[Candidate, ...]) -> tuple[Method, ...]:
    """Methods in the order in which the first that fits is taken.

    LoRA before QLoRA (gate G2). Full fine-tuning comes last, since adapters match it on small and
    medium data, but before QLoRA where the model is small (P6) or 4 bits hardly reach it (G4).
    """
    small = any(one.estimate.parameters.total <= SMALL_MODEL for one in candidates)
    if small or any(misses_four_bit(one) for one in candidates):
        return ("lora", "peft", "full", "qlora")
    return ("lora", "peft", "qlora", "full")


def misses_four_bit(candidate: Candidate) -> bool:
    """Whether quantisation leaves most parameters as they are: fused experts under bitsandbytes."""
    counts = candidate.estimate.parameters
    return candidate.scenario.train.quantized and counts.quantized < MOSTLY * counts.total


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
            if (changed := _adapted(one, goal, ask, estimate)) is not None:
                return changed
    return None


def worth(ask: Ask, candidates: tuple[Candidate, ...], order: tuple[Method, ...]) -> tuple[Method, ...]:
    """Methods that are worth looking for hardware: those named, else adapters, and full where the model is small."""
    known = {one.scenario.train.method for one in candidates}
    small = candidates[0].estimate.parameters.total <= SMALL_MODEL
    missing = {one.scenario.train.method for one in candidates if misses_four_bit(one)}
    if ask.request.methods:
        return tuple(method for method in order if method in known)
    skipped = missing if small else {"full", *missing}
    return tuple(method for method in order if method in (known - skipped or known))


def _adapted(start: Candidate, goal: Verdict, ask: Ask, estimate: Estimator) -> Way | None:
    """``start`` with the mildest change of settings that the user left open."""
    for one in changes(ask, start, estimate):
        touched = one.settings.keys() - {"method"}
        free = touched <= NEUTRAL and not touched & ask.request.settings.keys()
        if free and RANKS[one.candidate.verdict] >= RANKS[goal]:
            return one
    return None


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
