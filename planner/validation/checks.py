"""One published run put to an estimator: its numbers (``Check``) and its outcome (``Judged``) beside our answer.

An error is signed and relative: ``(predicted - published) / published``. Where a source leaves its unit open
(GB may be 10**9 or 2**30 bytes, 7 % apart), prints a range or rounds, the error counts from the nearer end and
is 0 inside. Two kinds of number only bound the prediction from below, so that only a prediction under them is an
error: runs whose longest batch is not published (we predict the longest that it can be), and nvidia-smi readings of a
card that was nearly full, where the allocator had given back what it would else have kept.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from planner.catalog import load_model
from planner.hardware import load_gpu
from planner.result import Estimate, Verdict
from planner.spec import Cluster, Scenario
from planner.stacks import resolve
from planner.validation.anchors import Case, Published
from planner.validation.schema import Metric, Outcome

Kind = Literal["value", "bound"]

SCORED: tuple[Metric, ...] = ("allocated", "active", "resident", "standing", "reserved", "device")
"""Metrics that an ``Estimate`` answers."""

NEARLY_FULL = 0.85
"""Share of the card above which a ``device`` reading no longer shows what the run takes with memory to spare."""

Bounds = Callable[[Case, Metric, Scenario, Estimate], tuple[int, int] | None]
"""Lowest and highest bytes that the prediction allows a metric, ``None`` where it states no interval for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One published number and our prediction of it.

    ``kind`` is ``bound`` when the number only bounds the prediction from below: then ``error`` is at most 0.
    ``covered``: whether the interval of the prediction holds the number, ``None`` without an interval.
    """

    case: Case
    kind: Kind
    published: Published
    predicted_bytes: int
    error: float
    covered: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One published outcome and our verdict on the same hardware."""

    case: Case
    verdict: Verdict

    @property
    def outcome(self) -> Outcome:
        """``ran`` or ``oom``, as published."""
        return self.case.outcome


def scenario_of(case: Case) -> Scenario:
    """Put the published run as a question to the estimators."""
    cluster = Cluster(gpu=load_gpu(case.gpu), gpus=case.gpus)
    scenario = resolve(load_model(case.model).model, cluster, case.method, case.settings, case.stack)
    return replace(scenario, stack=replace(scenario.stack, **case.behaviour)) if case.behaviour else scenario


def is_headline(check: Check) -> bool:
    """Whether a check belongs to the headline: allocated bytes, one GPU, every setting published."""
    case = check.case
    return check.published.metric == "allocated" and check.kind == "value" and case.gpus == 1 and case.confidence == "A"


def check(case: Case, published: Published, answer: Estimate, scenario: Scenario, bounds: Bounds | None) -> Check:
    """Hold one published number against the answer, and against its interval if there is one."""
    gpu = scenario.cluster.gpu
    squeezed = published.metric == "device" and published.low_bytes > NEARLY_FULL * gpu.memory_bytes
    kind: Kind = "bound" if case.at_most or squeezed else "value"
    predicted = predicted_bytes(published.metric, answer)
    error = signed_error(predicted, published)
    interval = bounds(case, published.metric, scenario, answer) if bounds else None
    return Check(
        case=case,
        kind=kind,
        published=published,
        predicted_bytes=predicted,
        error=min(error, 0.0) if kind == "bound" else error,
        covered=None if interval is None else holds(interval, published, kind),
    )


def holds(interval: tuple[int, int], published: Published, kind: Kind) -> bool:
    """Whether an interval reaches the published number; a bound is only missed by an interval that ends below it.

    >>> published = Published("device", 100, 107)
    >>> holds((90, 99), published, "value"), holds((120, 130), published, "bound")
    (False, True)
    """
    low, high = interval
    return high >= published.low_bytes and (kind == "bound" or low <= published.high_bytes)


def predicted_bytes(metric: Metric, answer: Estimate) -> int:
    """Our number for a metric of ``SCORED``."""
    peak = answer.peak
    between = answer.phases["optimizer_step"]
    resident = between.weights + between.adapters + between.optimizer
    return {
        "allocated": peak.allocated_bytes,
        "active": peak.allocated_bytes,
        "resident": resident,
        "standing": resident + between.gradients,
        "reserved": peak.reserved_bytes,
        "device": peak.device_bytes,
    }[metric]


def signed_error(predicted: int, published: Published) -> float:
    """Relative distance to the published interval, 0 inside it.

    >>> signed_error(50, Published("device", 100, 107)), signed_error(103, Published("device", 100, 107))
    (-0.5, 0.0)
    """
    if predicted < published.low_bytes:
        return predicted / published.low_bytes - 1
    if predicted > published.high_bytes:
        return predicted / published.high_bytes - 1
    return 0.0
