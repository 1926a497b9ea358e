"""Predictions against published numbers: ``validate() -> Report``, all computing, no rendering.

Runs of trainers that we do not model are put as the question that their users would ask (``stand_in``), and scored
apart: their errors hold what the other trainer does differently, too.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from planner.calibration import Calibration, published_table
from planner.closed_form import estimate
from planner.errors import PlannerError, UnknownName
from planner.estimators import Estimator
from planner.recommend.verdict import judge
from planner.result import Estimate, Evidence
from planner.spec import Scenario
from planner.validation.anchors import AnchorFile, Case, Source, load_anchors
from planner.validation.checks import SCORED, Bounds, Check, Judged, check, is_headline, scenario_of
from planner.validation.several import Several, several
from planner.validation.shared_spare import SpareScore, spare_scores
from planner.validation.summary import Score, Table, TimedRows, Unscored, score, scores, table, timed, unscored

Tell = Callable[[float, str], None]
"""Shows how much of 1 is done, and of what."""


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

    ``own``: runs of the stacks that we model. ``stand_ins``: runs of other trainers, put as the nearest question;
    none where they were not asked for. ``headline`` is the allocated bytes of single-GPU Hugging Face runs whose
    settings are all published (confidence A). ``notes``: what a reader must know of the evidence. ``several``: runs on
    several GPUs by source; ``spare``: what the allocator keeps there, judged by sources that were not fitted.
    """

    evidence: Evidence
    notes: tuple[str, ...]
    sources: tuple[Source, ...]
    rows: int
    own: Group
    stand_ins: Group
    unmodelled: int
    headline: Score | None
    several: tuple[Several, ...]
    spare: tuple[SpareScore, ...]
    unscored: tuple[Unscored, ...]
    timed: tuple[TimedRows, ...]


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
    files = chosen(load_anchors(folder), sources)
    own = _group([case for file in files for case in file.cases], estimator, bounds)
    others = _group([case for file in files for case in file.stand_ins], estimator, bounds)
    return _report(files, own, others, spare=spare_scores((*own.checks, *others.checks), estimator))


def validate_traced(
    folder: Path | None = None, *, sources: Collection[str] = (), tell: Tell = lambda _done, _text: None
) -> Report:
    """The same by traces, which take seconds each when they are not stored; stand-ins are not asked for.

    Raise ``UsageError`` where the libraries that a trace runs are missing.
    """
    from planner.validation.by_trace import TracedCases, differences, installed  # noqa: PLC0415  (reads what is there)

    files = chosen(load_anchors(folder), sources)
    cases = [case for file in files for case in file.cases]
    own = _group(cases, TracedCases(len(cases), tell).estimator(), None)
    versions = ", ".join(f"{name} {version}" for name, version in installed("trl").versions.items())
    other = sum(bool(differences(item.case)) for item in own.judged)
    notes = (
        f"Traced with {versions}, whatever versions ran.",
        f"{other} of {own.predicted} runs are approximated: their libraries treated logits or key and value heads "
        "otherwise.",
    )
    return _report(files, own, _group([], estimate, None), "traced", notes)


def _report(
    files: tuple[AnchorFile, ...],
    own: Group,
    stand_ins: Group,
    evidence: Evidence = "closed-form",
    notes: tuple[str, ...] = (),
    spare: tuple[SpareScore, ...] = (),
) -> Report:
    unmodelled = [row for file in files for row in file.unmodelled]
    return Report(
        evidence=evidence,
        notes=notes,
        sources=tuple(file.source for file in files),
        rows=sum(len(file.rows) for file in files),
        own=own,
        stand_ins=stand_ins,
        unmodelled=len(unmodelled),
        headline=score([one for one in own.checks if is_headline(one)]),
        several=(*several(own.checks), *several(stand_ins.checks)),
        spare=spare,
        unscored=unscored(unmodelled),
        timed=timed(files),
    )


def chosen(files: tuple[AnchorFile, ...], sources: Collection[str]) -> tuple[AnchorFile, ...]:
    """The files of these sources, or all; raise ``UnknownName`` for one that is none."""
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
            check(case, published, answer, scenario, bounds)
            for published in case.published
            if published.metric in SCORED
        )
        judged.append(Judged(case=case, verdict=judge(answer, scenario.cluster)))
    return Group(
        predicted=len(judged),
        refused=tuple(refused),
        scores=scores(checks),
        fits=table(judged),
        checks=tuple(checks),
        judged=tuple(judged),
    )
