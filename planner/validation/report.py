"""Predictions against published numbers: ``validate() -> Report``, all computing, no rendering.

An error is signed and relative: ``(predicted - published) / published``. Where a source leaves its unit open
(GB may be 10**9 or 2**30 bytes, 7 % apart) or prints a range, the error counts from the nearer end and
is 0 inside. Two kinds of number only bound the prediction from below, so that only a prediction under them is an
error: runs whose longest batch is not published (we predict the longest that it can be), and nvidia-smi readings of a
card that was nearly full, where the allocator had given back what it would else have kept.

Runs of trainers that we do not model are put as the question that their users would ask (``stand_in``), and scored
apart: their errors hold what the other trainer does differently, too.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from statistics import median
from typing import Literal

from planner.calibration import Calibration, published_table
from planner.catalog import load_model
from planner.closed_form import estimate
from planner.errors import PlannerError, UnknownName
from planner.hardware import load_gpu
from planner.recommend.verdict import judge
from planner.result import Estimate, Verdict
from planner.spec import Cluster, Scenario
from planner.stacks import resolve
from planner.validation.anchors import AnchorFile, Case, Metric, Outcome, Published, Source, Unmodelled, load_anchors

Kind = Literal["value", "bound"]
Cards = Literal["one", "several"]

SCORED: tuple[Metric, ...] = ("allocated", "active", "resident", "standing", "reserved", "device")
"""Metrics that an ``Estimate`` answers."""

NEARLY_FULL = 0.85
"""Share of the card above which a ``device`` reading no longer shows what the run takes with memory to spare."""

Estimator = Callable[[Scenario], Estimate]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How far predictions lie from one group of published numbers; errors are relative and signed.

    ``median_error`` and ``p95_error`` are of the absolute errors, ``worst_error`` is the one farthest from 0 and
    ``worst_case`` its id; ``worst_over`` and ``worst_under`` are the highest and the lowest, 0 when nothing lies on
    that side. ``coverage`` is the share of numbers that the prediction's interval holds, ``None`` without intervals.
    """

    source: str
    metric: Metric
    cards: Cards
    kind: Kind
    n: int
    median_error: float
    p95_error: float
    worst_error: float
    worst_over: float
    worst_under: float
    worst_case: str
    coverage: float | None


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
class Group:
    """Runs of one kind, predicted. ``refused`` names those that the planner declined, with its words."""

    predicted: int
    refused: tuple[tuple[str, str], ...]
    scores: tuple[Score, ...]
    fits: Table
    checks: tuple[Check, ...]
    judged: tuple[Judged, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Every row of every anchor file is predicted or refused, as our own or as a stand-in, or else unmodelled.

    ``own``: runs of the stacks that we model. ``stand_ins``: runs of other trainers, put as the nearest question.
    ``headline`` is the allocated bytes of single-GPU Hugging Face runs whose settings are all published (confidence A).
    """

    sources: tuple[Source, ...]
    rows: int
    own: Group
    stand_ins: Group
    unmodelled: int
    headline: Score | None
    unscored: tuple[Unscored, ...]


# ---------------------------------------------------------------- the whole


def as_printed(scenario: Scenario) -> Estimate:
    """The closed form with the interval that it has where its user has measured nothing."""
    return Calibration(published_table()).calibrated(estimate(scenario), scenario)


def validate(
    folder: Path | None = None,
    estimator: Estimator = as_printed,
    *,
    sources: Collection[str] = (),
    bounds: Bounds | None = None,
) -> Report:
    """Predict every case of the anchors, or of those ``sources`` alone, and compare.

    ``bounds`` says what interval a prediction has; without it none is judged. Raise ``UnknownName`` for a source
    that has no file.
    """
    files = _chosen(load_anchors(folder), sources)
    unmodelled = [row for file in files for row in file.unmodelled]
    own = _group([case for file in files for case in file.cases], estimator, bounds)
    return Report(
        sources=tuple(file.source for file in files),
        rows=sum(len(file.rows) for file in files),
        own=own,
        stand_ins=_group([case for file in files for case in file.stand_ins], estimator, bounds),
        unmodelled=len(unmodelled),
        headline=_score([check for check in own.checks if is_headline(check)]),
        unscored=_unscored(unmodelled),
    )


def _chosen(files: tuple[AnchorFile, ...], sources: Collection[str]) -> tuple[AnchorFile, ...]:
    known = [file.source.id for file in files]
    for name in sources:
        if name not in known:
            raise UnknownName("source", name, known, listing="plan validate")
    return tuple(file for file in files if not sources or file.source.id in sources)


def _group(cases: Iterable[Case], estimator: Estimator, bounds: Bounds | None) -> Group:
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
            _check(case, published, answer, scenario, bounds)
            for published in case.published
            if published.metric in SCORED
        )
        judged.append(Judged(case=case, verdict=judge(answer, scenario.cluster)))
    return Group(
        predicted=len(judged),
        refused=tuple(refused),
        scores=_scores(checks),
        fits=_table(judged),
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


def _check(case: Case, published: Published, answer: Estimate, scenario: Scenario, bounds: Bounds | None) -> Check:
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


# ---------------------------------------------------------------- summaries


def _scores(checks: Iterable[Check]) -> tuple[Score, ...]:
    groups: dict[tuple[str, Metric, Cards, Kind], list[Check]] = {}
    for check in checks:
        groups.setdefault(_key(check), []).append(check)
    return tuple(score for key in sorted(groups) if (score := _score(groups[key])) is not None)


def _key(check: Check) -> tuple[str, Metric, Cards, Kind]:
    cards: Cards = "one" if check.case.gpus == 1 else "several"
    return check.case.source.id, check.published.metric, cards, check.kind


def _score(checks: Sequence[Check]) -> Score | None:
    """Score one group, ``None`` for an empty one; a group over several sources names them all."""
    if not checks:
        return None
    _, metric, cards, kind = _key(checks[0])
    errors = [check.error for check in checks]
    worst = max(checks, key=lambda check: abs(check.error))
    covered = [check.covered for check in checks if check.covered is not None]
    return Score(
        source=" + ".join(sorted({check.case.source.id for check in checks})),
        metric=metric,
        cards=cards,
        kind=kind,
        n=len(checks),
        median_error=median(map(abs, errors)),
        p95_error=quantile(map(abs, errors), 0.95),
        worst_error=worst.error,
        worst_over=max(0.0, *errors),
        worst_under=min(0.0, *errors),
        worst_case=worst.case.id,
        coverage=sum(covered) / len(covered) if covered else None,
    )


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least ``share`` of all do not exceed.

    >>> quantile([4.0, 1.0, 3.0, 2.0], 0.5), quantile([1.0, 2.0], 0.95)
    (2.0, 2.0)
    """
    ordered = sorted(values)
    return ordered[max(ceil(share * len(ordered)) - 1, 0)]


def _table(judged: Iterable[Judged]) -> Table:
    """Outcomes that prove something: not of a card that we assume, nor of a run that fitted with a shorter batch."""
    known = [item for item in judged if not item.case.gpu_assumed]
    counted = [item for item in known if item.outcome == "oom" or not item.case.at_most]
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
