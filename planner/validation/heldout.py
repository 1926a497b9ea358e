"""Intervals judged by numbers that they have not seen: each source is left out in turn, and so is each run."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from planner.calibration import METRICS, STATED, Calibration, Metric, Query, Residual, Run, Runs, Table, fit
from planner.calibration.own import own_spread, query_of
from planner.calibration.residuals import predicted
from planner.estimators import remember
from planner.result import Estimate
from planner.spec import Scenario
from planner.validation.anchors import Case
from planner.validation.checks import Bounds, Check, scenario_of
from planner.validation.report import Report, as_printed, validate
from planner.validation.residuals import residuals


def held_out(rows: Iterable[Residual]) -> Bounds:
    """Bounds of each case by the rows of all sources but its own."""
    kept = tuple(rows)

    @cache
    def without(source: str) -> Table:
        return fit(row for row in kept if row.source != source)

    def bounds(case: Case, metric: str, scenario: Scenario, answer: Estimate) -> tuple[int, int] | None:
        if metric not in METRICS:
            return None
        errors = Calibration(without(case.source.id)).errors(answer, scenario, metric)
        ours = predicted(answer, metric)
        return round(ours * (1 + errors.low)), round(ours * (1 + errors.high))

    return bounds


def validate_held_out(sources: Collection[str] = ()) -> Report:
    """``validate``, with the interval of every prediction made from the other sources alone."""
    estimator = remember(as_printed)  # each case is looked at twice
    everything = validate(estimator=estimator)
    return validate(estimator=estimator, sources=sources, bounds=held_out(residuals(everything.own.checks)))


class Held(NamedTuple):
    """How many published values of a source lie in intervals that were made without it."""

    source: str
    n: int
    held: int


def held_by_source(checks: Iterable[Check]) -> tuple[Held, ...]:
    """Every source, and last all of them; numbers that only bound a prediction do not count."""
    counted: dict[str, list[bool]] = {}
    for check in checks:
        if check.covered is not None and check.kind == "value":
            counted.setdefault(check.case.source.id, []).append(check.covered)
    rows = [Held(source, len(found), sum(found)) for source, found in sorted(counted.items())]
    return (*rows, Held("all", sum(row.n for row in rows), sum(row.held for row in rows))) if rows else ()


class NeighbourScore(NamedTuple):
    """How often the interval that ``known`` neighbours give holds the run that was left out of them."""

    known: str
    n: int
    held: int
    median_error: float
    corrected_error: float
    """Medians of absolute errors, before and after the correction."""


def neighbour_scores(checks: Iterable[Check]) -> tuple[NeighbourScore, ...]:
    """Published runs in place of own ones: each is predicted by one, by up to three and by all others of its model."""
    runs = [_run(check) for check in checks if check.kind == "value" and check.published.metric == "allocated"]
    found = []
    for known, most in (("1", 1), ("up to 3", 3), ("all others", len(runs))):
        judged = [one for run in runs if (one := _judged(run, runs, most)) is not None]
        if judged:
            found.append(_score(known, judged))
    return tuple(found)


class _Judged(NamedTuple):
    held: bool
    before: float
    after: float


def _judged(run: Run, runs: Sequence[Run], most: int) -> _Judged | None:
    others = [one for one in runs if one.id != run.id and one.scenario != run.scenario]
    near = Runs(lambda query: tuple(one for one in others if _answers(one, query)))
    kept = near.of_neighbours(run.scenario)[:most]
    own = own_spread(Runs(lambda _: kept), run.scenario, "closed-form", "allocated", STATED)
    error = run.error("closed-form", "allocated")
    if not kept or own is None or error is None:
        return None
    return _Judged(own.low <= error <= own.high, abs(error), abs(error - own.shift))


def _answers(run: Run, query: Query) -> bool:
    scenario = run.scenario
    alike = query_of(scenario) == query._replace(model="", method="")
    return alike and scenario.model.name == query.model and scenario.train.method == query.method


def _score(known: str, judged: Sequence[_Judged]) -> NeighbourScore:
    before, after = sorted(one.before for one in judged), sorted(one.after for one in judged)
    middle = len(judged) // 2
    return NeighbourScore(known, len(judged), sum(one.held for one in judged), before[middle], after[middle])


def _run(check: Check) -> Run:
    ours: Mapping[Metric, int] = MappingProxyType({"allocated": check.predicted_bytes})
    return Run(
        id=check.case.id,
        scenario=scenario_of(check.case),
        layers=None,
        measured=MappingProxyType({"allocated": check.published.low_bytes}),
        predicted=MappingProxyType({"closed-form": ours}),
    )
