"""Estimators by evidence, each with the interval that measurements give it: the one door to all three kinds."""

from collections.abc import Callable
from functools import cache

from planner.calibration import Calibration, published_table
from planner.closed_form import estimate as closed_form
from planner.errors import UnsupportedScenario, UsageError, show
from planner.result import Estimate, Evidence
from planner.spec import Scenario

Estimator = Callable[[Scenario], Estimate]


def estimator_for(evidence: Evidence) -> Estimator:
    """The calibrated estimator of a kind of evidence; raise ``UnsupportedScenario`` where this version has none."""
    return calibrated(uncalibrated(evidence), calibration_here())


def calibrated(estimator: Estimator, calibration: Calibration) -> Estimator:
    """``estimator`` with the interval, and the corrections, that measurements give it."""

    def estimating(scenario: Scenario) -> Estimate:
        return calibration.calibrated(estimator(scenario), scenario)

    return estimating


def estimate(scenario: Scenario, evidence: Evidence = "closed-form") -> Estimate:
    """What one optimizer step of ``scenario`` takes, by the evidence that is asked for."""
    return estimator_for(evidence)(scenario)


@cache
def calibration_here() -> Calibration:
    """What has been measured: by others, and by the user on this machine."""
    return Calibration(published_table())


def uncalibrated(evidence: Evidence) -> Estimator:
    """The bare estimator behind a kind of evidence."""
    if evidence == "closed-form":
        return closed_form
    if evidence == "traced":
        from planner.build.installed import require  # noqa: PLC0415  (the quick path has no use for it)
        from planner.trace.front import estimate as traced  # noqa: PLC0415  (torch loads where no answer is stored)

        require("torch", "transformers", "accelerate", "peft")

        return traced
    if evidence == "measured":
        raise UnsupportedScenario("a plan cannot rest on measured evidence: run plan measure, or use --evidence traced")
    raise UsageError(f"--evidence {show(evidence)} is not closed-form, traced or measured")


def remember(estimator: Estimator) -> Estimator:
    """``estimator``, asked once per scenario: rules and ways put the same questions more than once."""
    known: dict[Scenario, Estimate] = {}

    def remembered(scenario: Scenario) -> Estimate:
        found = known.get(scenario)
        if found is None:
            found = known[scenario] = estimator(scenario)
        return found

    return remembered
