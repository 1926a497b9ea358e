"""The final few, traced: a recommendation by closed forms is held against the real step on fake tensors."""

from dataclasses import replace

from planner.errors import UnsupportedScenario
from planner.estimators import Estimator
from planner.recommend.changes import RANKS
from planner.recommend.verdict import judge
from planner.result import Alternative, Candidate, Recommendation
from planner.units import format_bytes

Shown = tuple[Candidate, ...]


def confirm(shown: Shown, advice: Recommendation, trace: Estimator) -> tuple[Shown, Recommendation, tuple[str, ...]]:
    """Candidates and recommendation with the recommended one and its alternatives traced, and what came of it.

    Where the trace of the recommended one no longer runs, the first of the alternatives that does takes its place.
    """
    index = advice.candidate
    if index is None:
        return shown, advice, ()
    notes: list[str] = []
    alternatives = tuple(_alternative(one, trace, notes) for one in advice.alternatives)
    advice = replace(advice, alternatives=alternatives)
    chosen = _traced(shown[index], trace, notes)
    if RANKS[chosen.verdict]:
        return _put(shown, index, chosen), advice, tuple(notes)
    shown = _put(shown, index, chosen)
    for one in alternatives:
        if RANKS[one.way.candidate.verdict]:
            notes.append(f"by its trace {chosen.method} as recommended does not fit: an alternative takes its place")
            rest = tuple(other for other in alternatives if other is not one)
            taken = replace(advice, candidate=len(shown), command=one.way.command, alternatives=rest)
            return (*shown, one.way.candidate), taken, tuple(notes)
    notes.append(f"by its trace {chosen.method} as recommended does not fit, and nothing else that was traced does")
    return shown, replace(advice, candidate=None, command=None), tuple(notes)


def _put(shown: Shown, index: int, one: Candidate) -> Shown:
    return (*shown[:index], one, *shown[index + 1 :])


def _alternative(one: Alternative, trace: Estimator, notes: list[str]) -> Alternative:
    return replace(one, way=replace(one.way, candidate=_traced(one.way.candidate, trace, notes)))


def _traced(one: Candidate, trace: Estimator, notes: list[str]) -> Candidate:
    """The candidate by its trace; as it is where it has one, or cannot have one."""
    if one.estimate.evidence == "traced":
        return one
    try:
        found = trace(one.scenario)
    except UnsupportedScenario as error:
        notes.append(f"{one.method} was not traced: {error}")
        return one
    said, seen = one.estimate.peak.required_bytes, found.peak.required_bytes
    notes.append(f"{one.method} traced: needs {format_bytes(seen)} where the closed form said {format_bytes(said)}")
    return replace(one, estimate=found, verdict=judge(found, one.scenario.cluster))
