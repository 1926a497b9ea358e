"""The candidates of a request: one per method, on the settings that were asked for."""

from collections.abc import Mapping
from dataclasses import replace

from planner.cost import load_of, run_cost
from planner.errors import UnsupportedScenario
from planner.estimators import Estimator, timed
from planner.recommend.request import Ask
from planner.recommend.verdict import judge
from planner.result import Candidate, Estimate
from planner.spec import Job, Method, Scenario
from planner.stacks import resolve


def scenario(ask: Ask, method: Method) -> Scenario:
    """The complete scenario of one method of ``ask``."""
    found = resolve(ask.model, ask.cluster, method, ask.request.settings, ask.request.stack)
    if not ask.planned:
        return found
    return replace(found, origins={**found.origins, **dict.fromkeys(ask.planned, "plan")})


def candidate(ask: Ask, method: Method, estimate: Estimator) -> Candidate:
    """One method of ``ask``, estimated, judged, timed and priced."""
    resolved = scenario(ask, method)
    return weighed(resolved, estimate(resolved), ask.job)


def supported(ask: Ask, method: Method, estimate: Estimator) -> Candidate | None:
    """The same; ``None`` where the method is not planned with these settings on this hardware."""
    try:
        return candidate(ask, method, estimate)
    except UnsupportedScenario:
        return None


def judged(ask: Ask, method: Method, estimate: Estimator) -> Candidate | None:
    """The same, neither timed nor priced, for whoever reads bytes and verdict alone: seconds take as long as bytes."""
    try:
        resolved = scenario(ask, method)
        found = estimate(resolved)
    except UnsupportedScenario:
        return None
    return Candidate(scenario=resolved, estimate=found, verdict=judge(found, resolved.cluster))


def weighed(scenario: Scenario, found: Estimate, job: Job) -> Candidate:
    """An estimated scenario, judged, timed and priced."""
    step = timed(scenario, found, load_of(scenario.train, job))
    cost = run_cost(scenario, found, step, job)
    return Candidate(scenario=scenario, estimate=found, verdict=judge(found, scenario.cluster), step=step, cost=cost)


def candidates(ask: Ask, estimate: Estimator) -> tuple[tuple[Candidate, ...], Mapping[Method, str]]:
    """Every method in question, and why those that we cannot estimate are missing.

    Raise ``UnsupportedScenario`` when the user named the method that we cannot estimate, or none is left.
    """
    found: list[Candidate] = []
    missing: dict[Method, UnsupportedScenario] = {}
    for method in ask.methods:
        try:
            found.append(candidate(ask, method, estimate))
        except UnsupportedScenario as error:
            missing[method] = error
    if missing and (ask.request.methods or not found):
        raise next(iter(missing.values()))
    return tuple(found), {method: str(error) for method, error in missing.items()}
