"""Checks and verdicts of many runs, summed up by source and metric; rows that are not predicted, counted by reason."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Literal

from planner.result import Verdict
from planner.validation.anchors import AnchorFile, Unmodelled
from planner.validation.checks import Check, Judged, Kind
from planner.validation.schema import Metric, Outcome, TimeMetric

Cards = Literal["one", "several"]


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
class TimedRows:
    """Rows of one source that tell a time. They are kept for a model of time and not predicted."""

    source: str
    metric: TimeMetric
    n: int
    scopes: tuple[str, ...]


# ---------------------------------------------------------------- how


def scores(checks: Iterable[Check]) -> tuple[Score, ...]:
    groups: dict[tuple[str, Metric, Cards, Kind], list[Check]] = {}
    for check in checks:
        groups.setdefault(_key(check), []).append(check)
    return tuple(one for key in sorted(groups) if (one := score(groups[key])) is not None)


def _key(check: Check) -> tuple[str, Metric, Cards, Kind]:
    cards: Cards = "one" if check.case.gpus == 1 else "several"
    return check.case.source.id, check.published.metric, cards, check.kind


def score(checks: Sequence[Check]) -> Score | None:
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


def table(judged: Iterable[Judged]) -> Table:
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


def unscored(rows: Iterable[Unmodelled]) -> tuple[Unscored, ...]:
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


def timed(files: Iterable[AnchorFile]) -> tuple[TimedRows, ...]:
    groups: dict[tuple[str, TimeMetric], list[str]] = {}
    for file in files:
        for item in (item for row in file.rows for item in row.timed):
            groups.setdefault((file.source.id, item.metric), []).append(item.scope)
    return tuple(
        TimedRows(source=source, metric=metric, n=len(scopes), scopes=tuple(sorted(set(scopes))))
        for (source, metric), scopes in sorted(groups.items())
    )
