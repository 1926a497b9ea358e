"""Estimators by evidence, each with the interval that measurements give it: the one door to all three kinds."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from planner.calibration import Calibration, Query, Runs, finder, published_table
from planner.calibration.stored import MOST
from planner.closed_form import estimate as closed_form
from planner.errors import UnsupportedScenario, UsageError, show
from planner.records.store import StoreError, default_store
from planner.result import Estimate, Evidence, StepTime
from planner.spec import Scenario
from planner.throughput import Load, step_time
from planner.throughput.own import OwnTimes

if TYPE_CHECKING:
    from planner.records import Record

Estimator = Callable[[Scenario], Estimate]


def estimator_for(evidence: Evidence) -> Estimator:
    """The calibrated estimator of a kind of evidence; raise ``UnsupportedScenario`` where this version has none."""
    return calibrated(uncalibrated(evidence), measured_here().calibration)


def calibrated(estimator: Estimator, calibration: Calibration) -> Estimator:
    """``estimator`` with the interval, and the corrections, that measurements give it."""

    def estimating(scenario: Scenario) -> Estimate:
        return calibration.calibrated(estimator(scenario), scenario)

    return estimating


def estimate(scenario: Scenario, evidence: Evidence = "closed-form") -> Estimate:
    """What one optimizer step of ``scenario`` takes, by the evidence that is asked for."""
    return estimator_for(evidence)(scenario)


class Measured(NamedTuple):
    """What has been measured, in bytes and in seconds, and what a reader must know of own records, each line once."""

    calibration: Calibration
    times: OwnTimes
    notices: dict[str, None]


@cache
def measured_here() -> Measured:
    """By others, and by the user, whose records are read when a scenario asks for them."""
    notices: dict[str, None] = {}

    def select(query: Query) -> tuple["Record", ...]:
        return _records(query, notices)

    runs = Runs(finder(select, closed_form))
    return Measured(Calibration(published_table(), runs), OwnTimes(runs, closed_form, step_time), notices)


def _records(query: Query, notices: dict[str, None]) -> tuple["Record", ...]:
    """Records of one device that answer a query; none from a store that cannot be read, which is no reason to stop."""
    if query.world_size != 1:
        return ()
    try:
        return default_store(lambda notice: notices.setdefault(notice)).find(
            stack=query.stack,
            device=query.architecture or None,
            model=query.model or None,
            method=query.method or None,
            kind="steps",
            most=MOST,
        )
    except StoreError as error:
        notices.setdefault(f"own measurements are left out: {error}")
        return ()


def uncalibrated(evidence: Evidence) -> Estimator:
    """The bare estimator behind a kind of evidence."""
    if evidence == "closed-form":
        return closed_form
    if evidence == "traced":
        from planner.build.installed import require  # noqa: PLC0415  (the quick path has no use for it)
        from planner.trace.front import estimate as traced  # noqa: PLC0415  (torch loads where no answer is stored)

        require("torch", "transformers", "accelerate", "peft")

        return with_ram(traced)
    if evidence == "measured":
        raise UnsupportedScenario("a plan cannot rest on measured evidence: run plan measure, or use --evidence traced")
    raise UsageError(f"--evidence {show(evidence)} is not closed-form, traced or measured")


def with_ram(estimator: Estimator) -> Estimator:
    """``estimator`` with the RAM of a machine by closed form, where that knows the model: a trace watches one card."""

    def estimating(scenario: Scenario) -> Estimate:
        found = estimator(scenario)
        try:
            return replace(found, host=closed_form(scenario).host)
        except UnsupportedScenario:
            return found

    return estimating


def remember(estimator: Estimator) -> Estimator:
    """``estimator``, asked once per scenario: rules and ways put the same questions more than once."""
    known: dict[Scenario, Estimate] = {}

    def remembered(scenario: Scenario) -> Estimate:
        found = known.get(scenario)
        if found is None:
            found = known[scenario] = estimator(scenario)
        return found

    return remembered


def timed(scenario: Scenario, estimate: Estimate, load: Load | None = None) -> StepTime | None:
    """Seconds of one optimizer step, by own runs where there are any; ``None`` where no rate of the card is known."""
    step = step_time(scenario, estimate, load)
    return step and measured_here().times.corrected(step, scenario, load)
