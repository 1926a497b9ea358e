"""Published runs on one GPU, traced: the installed libraries run in place of those that ran then.

A trace runs what is installed. So a published run keeps its settings and those of its trainer's habits that we set
ourselves (how a quantised base is prepared, which checkpoints, which outputs are held), and gets the installed versions
of everything else. Where these do otherwise than the versions of the run, an error tells how much that matters.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from planner.build.installed import installed_versions
from planner.calibration import Calibration, published_table
from planner.errors import PlannerError, UnsupportedScenario
from planner.estimators import calibrated, uncalibrated
from planner.result import Estimate
from planner.spec import Behaviour, Scenario
from planner.stacks import load_stack
from planner.validation.anchors import Case
from planner.validation.checks import scenario_of

LIBRARIES_DECIDE = ("logits_upcast", "logits_shift_copy", "repeats_kv", "flash_repeats_kv", "fused_experts")
"""Fields of ``Behaviour`` that no setting of ours changes in the installed libraries."""


@dataclass(frozen=True, slots=True)
class TracedCases:
    """An estimator that traces published runs, one after another, and tells how far it is."""

    total: int
    tell: Callable[[float, str], None]
    """Shows how much of 1 is done, and of what."""

    def estimator(self) -> Callable[[Scenario], Estimate]:
        """Traces with the interval that published runs give, and without what the user has measured."""
        traced = calibrated(uncalibrated("traced"), Calibration(published_table()))
        done = iter(range(self.total))

        def estimating(scenario: Scenario) -> Estimate:
            place = next(done, self.total)
            self.tell(place / max(self.total, 1), f"{place + 1} of {self.total}: {scenario.model.name}")
            return traced(in_place(scenario))

        return estimating


def in_place(scenario: Scenario) -> Scenario:
    """The scenario with installed versions; raise ``UnsupportedScenario`` where they cannot stand in."""
    if scenario.cluster.world_size > 1:
        raise UnsupportedScenario("several GPUs: published runs are traced on one only")
    behaviour = installed(scenario.stack.name)
    if scenario.model.is_moe and scenario.train.quantized and differs(scenario.stack, "fused_experts", behaviour):
        raise UnsupportedScenario("the installed transformers keeps experts whole, and this run quantised them")
    return replace(scenario, stack=replace(scenario.stack, versions=behaviour.versions))


def differences(case: Case) -> tuple[str, ...]:
    """What the installed libraries do otherwise than those of the run; nothing where no trace stands in."""
    try:
        scenario = scenario_of(case)
        in_place(scenario)
    except PlannerError:
        return ()
    behaviour = installed(scenario.stack.name)
    return tuple(name for name in LIBRARIES_DECIDE if differs(scenario.stack, name, behaviour))


def differs(stack: Behaviour, name: str, other: Behaviour) -> bool:
    """Whether two behaviours have different values of one field."""
    return bool(getattr(stack, name) != getattr(other, name))


@cache
def installed(name: str) -> Behaviour:
    """What a trainer does with the installed libraries."""
    known, found = load_stack(name).behaviour.versions, installed_versions()
    named = [f"{package}={found[package]}" for package in known if package in found]
    return load_stack(",".join([name, *named])).behaviour
