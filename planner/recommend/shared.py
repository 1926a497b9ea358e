"""What many questions share: one closed form for all cards of a kind, one set of settings for all cards that can it."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from planner.closed_form.shared import shared
from planner.estimators import Estimator, calibrated, measured_here
from planner.recommend.candidates import scenario as scenario_of
from planner.recommend.request import Ask
from planner.spec import Cluster, Method, Scenario


def shared_estimator() -> Estimator:
    """The calibrated closed form as ``estimator_for("closed-form")`` has it, equal to it in every number, but faster.

    It remembers what it was asked: make one for each batch of questions, and let it go with them.
    """
    return calibrated(shared(), measured_here().calibration)


class Kind(NamedTuple):
    """What of a question and its hardware decides how open settings are filled."""

    question: int
    method: Method
    ranks: int
    supports_flash: bool
    supports_bf16: bool


def shared_scenarios() -> Callable[[Ask, Cluster, Method], Scenario]:
    """Scenarios of questions on any hardware, settings filled in once for all cards that can do the same.

    Questions are told apart by which object they are: keep them while this is used.
    """
    known: dict[Kind, Scenario] = {}

    def scenario(ask: Ask, cluster: Cluster, method: Method) -> Scenario:
        gpu = cluster.gpu
        kind = Kind(id(ask), method, cluster.world_size, gpu.supports_flash, gpu.supports_bf16)
        if kind not in known:
            known[kind] = scenario_of(replace(ask, cluster=cluster), method)
        return replace(known[kind], cluster=cluster)

    return scenario
