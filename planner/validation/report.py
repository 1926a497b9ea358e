"""Predictions against published numbers: ``validate() -> Report``, all computing, no rendering.

An error is signed and relative: ``(predicted - published) / published``. Where a source leaves its unit open
(GB may be 10**9 or 2**30 bytes, 7 % apart) or prints a range, the error counts from the nearer end and
is 0 inside. Two kinds of number only bound the prediction from below, so that only a prediction under them is an
error: runs whose longest batch is not published (we predict the longest that it can be), and nvidia-smi readings of a
card that was nearly full, where the allocator had given back what it would else have kept.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal

from planner.catalog import load_model
from planner.closed_form import estimate
from planner.errors import PlannerError
from planner.hardware import load_gpu
from planner.recommend.verdict import judge
from planner.result import Estimate, Verdict
from planner.spec import Cluster, Scenario
from planner.stacks import resolve
from planner.validation.anchors import Case, Metric, Outcome, Published, Source, Unmodelled, load_anchors

Kind = Literal["value", "bound"]
Cards = Literal["one", "several"]

SCORED: tuple[Metric, ...] = ("allocated", "resident", "standing", "reserved", "device")
"""Metrics that an ``Estimate`` answers."""

NEARLY_FULL = 0.85
"""Share of the card above which a ``device`` reading no longer shows what the run takes with memory to spare."""

Estimator = Callable[[Scenario], Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One published number and our prediction of it.

    ``kind`` is ``bound`` when the number only bounds the prediction from below: then ``error`` is at most 0.
    """

    case: Case
    kind: Kind
    published: Published
    predicted_bytes: int
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One published outcome and our verdict on the same hardware."""

    case: Case
    verdict: Verdict

    @property
    def outcome(self) -> Outcome:
        """``ran`` or ``oom``, as published."""
        return self.case.outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How far predictions lie from one group of published numbers; errors are relative and signed.

    ``median_error`` is the median of the absolute errors, ``worst_error`` the one farthest from 0,
    ``worst_under`` the lowest (0 when nothing was under-predicted), ``worst_case`` the id behind ``worst_error``.
    """

    source: str
    metric: Metric
    cards: Cards
    kind: Kind
    n: int
    median_error: float
    worst_error: float
    worst_under: float
    worst_case: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Published outcome against verdict; a key that is absent counts 0."""

    counts: Mapping[tuple[Outcome, Verdict], int]
    ran_but_refused: tuple[str, ...]
    oom_but_fits: tuple[str, ...]

    def count(self, outcome: Outcome, verdict: Verdict) -> int:
        """Count the cases with this outcome and verdict."""
        return self.counts.get((outcome, verdict), 0)

    @property
    def n(self) -> int:
        """Number of cases judged."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Unscored:
    """Rows that we keep and do not predict: why, which kind, how many, in which sources."""

    reason: str
    detail: str
    n: int
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """``rows == modelled + unmodelled + refused``: every row of every anchor file is in one of the three.

    ``refused`` names the modelled cases that the planner declined, with its words. ``headline`` is the
    allocated bytes of single-GPU Hugging Face runs whose settings are all published (confidence A).
    """

    sources: tuple[Source, ...]
    rows: int
    modelled: int
    unmodelled: int
    refused: tuple[tuple[str, str], ...]
    headline: Score | None
    scores: tuple[Score, ...]
    fits: Table
    unscored: tuple[Unscored, ...]
    checks: tuple[Check, ...]
    judged: tuple[Judged, ...]


# ---------------------------------------------------------------- the whole


def validate(folder: Path | None = None, estimator: Estimator = estimate) -> Report:
    """Predict every case of the anchors that our stacks can express, and compare."""
    files = load_anchors(folder)
    cases = [case for file in files for case in file.cases]
    unmodelled = [row for file in files for row in file.unmodelled]
    checks: list[Check] = []
    judged: list[Judged] = []
    refused: list[tuple[str, str]] = []
    for case in cases:
        try:
            scenario = scenario_of(case)
            answer = estimator(scenario)
        except PlannerError as error:
            refused.append((case.id, str(error)))
            continue
        checks.extend(
            _check(case, published, answer, scenario.cluster)
            for published in case.published
            if published.metric in SCORED
        )
        judged.append(Judged(case=case, verdict=judge(answer, scenario.cluster)))
    return Report(
        sources=tuple(file.source for file in files),
        rows=len(cases) + len(unmodelled),
        modelled=len(cases) - len(refused),
        unmodelled=len(unmodelled),
        refused=tuple(refused),
        headline=_score(filter(is_headline, checks)),
        scores=_scores(checks),
        fits=_table(judged),
        unscored=_unscored(unmodelled),
        checks=tuple(checks),
        judged=tuple(judged),
    )


def scenario_of(case: Case) -> Scenario:
    """Put the published run as a question to the estimators."""
    cluster = Cluster(gpu=load_gpu(case.gpu), gpus=case.gpus)
    scenario = resolve(load_model(case.model).model, cluster, case.method, case.settings, case.stack)
    return replace(scenario, stack=replace(scenario.stack, **case.behaviour)) if case.behaviour else scenario


def is_headline(check: Check) -> bool:
    """Whether a check belongs to the headline: allocated bytes, one GPU, every setting published."""
    case = check.case
    return check.published.metric == "allocated" and check.kind == "value" and case.gpus == 1 and case.confidence == "A"


# ---------------------------------------------------------------- one case


def _check(case: Case, published: Published, answer: Estimate, cluster: Cluster) -> Check:
    predicted = predicted_bytes(published.metric, answer)
    squeezed = published.metric == "device" and published.low_bytes > NEARLY_FULL * cluster.gpu.memory_bytes
    kind: Kind = "bound" if case.at_most or squeezed else "value"
    error = signed_error(predicted, published)
    return Check(
        case=case,
        kind=kind,
        published=published,
        predicted_bytes=predicted,
        error=min(error, 0.0) if kind == "bound" else error,
    )


def predicted_bytes(metric: Metric, answer: Estimate) -> int:
    """Our number for a metric of ``SCORED``."""
    peak = answer.peak
    between = answer.phases["optimizer_step"]
    resident = between.weights + between.adapters + between.optimizer
    return {
        "allocated": peak.allocated_bytes,
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


# ---------------------------------------------------------------- summaries


def _scores(checks: Iterable[Check]) -> tuple[Score, ...]:
    groups: dict[tuple[str, Metric, Cards, Kind], list[Check]] = {}
    for check in checks:
        groups.setdefault(_group(check), []).append(check)
    return tuple(score for key in sorted(groups) if (score := _score(groups[key])) is not None)


def _group(check: Check) -> tuple[str, Metric, Cards, Kind]:
    cards: Cards = "one" if check.case.gpus == 1 else "several"
    return check.case.source.id, check.published.metric, cards, check.kind


def _score(checks: Iterable[Check]) -> Score | None:
    """Score one group, ``None`` for an empty one; a group over several sources names them all."""
    group = tuple(checks)
    if not group:
        return None
    _, metric, cards, kind = _group(group[0])
    worst = max(group, key=lambda check: abs(check.error))
    return Score(
        source=" + ".join(sorted({check.case.source.id for check in group})),
        metric=metric,
        cards=cards,
        kind=kind,
        n=len(group),
        median_error=median(abs(check.error) for check in group),
        worst_error=worst.error,
        worst_under=min(0.0, *(check.error for check in group)),
        worst_case=worst.case.id,
    )


def _table(judged: Iterable[Judged]) -> Table:
    """Cases whose length is only bounded count where the bound decides: a shorter run that fitted proves nothing."""
    counted = [item for item in judged if item.outcome == "oom" or not item.case.at_most]
    return Table(
        counts=Counter((item.outcome, item.verdict) for item in counted),
        ran_but_refused=_ids(counted, "ran", "does_not_fit"),
        oom_but_fits=_ids(counted, "oom", "fits"),
    )


def _ids(judged: Iterable[Judged], outcome: Outcome, verdict: Verdict) -> tuple[str, ...]:
    return tuple(item.case.id for item in judged if (item.outcome, item.verdict) == (outcome, verdict))


def _unscored(rows: Iterable[Unmodelled]) -> tuple[Unscored, ...]:
    groups: dict[tuple[str, str], list[Unmodelled]] = {}
    for row in rows:
        groups.setdefault((row.reason, row.detail), []).append(row)
    return tuple(
        Unscored(
            reason=reason,
            detail=detail,
            n=len(group),
            sources=tuple(sorted({row.source.id for row in group})),
        )
        for (reason, detail), group in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    )
