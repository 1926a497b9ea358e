"""Predictions beside published measurements, as neutral tables and as a document."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from planner.calibration import COVERAGE
from planner.render import words
from planner.render.sheet import Cell, Column, Sheet, row
from planner.validation.heldout import held_by_source
from planner.validation.several import FAR

if TYPE_CHECKING:
    from planner.validation import Group, Report, Score, Several, SpareScore

OUTCOMES = (("ran", "ran"), ("oom", "ran out of memory"))
FEW = 8
"""Cases that are named one by one."""


def validation_sheets(report: "Report") -> list[Sheet]:
    """Errors and verdicts of runs that we model, the same of stand-ins, then what is kept and not predicted."""
    head = [] if report.headline is None else [report.headline]
    own, others = report.own, report.stand_ins
    sheets = [
        scores_sheet("Predicted against published", head, own.scores, notes=report.notes),
        fits_sheet("Verdicts", own),
        held_sheet(own),
        scores_sheet("Stand-ins: other trainers, put as the nearest question", [], others.scores),
        fits_sheet("Verdicts on stand-ins", others),
        several_sheet(report.several),
        far_sheet(report.several),
        spare_sheet(report.spare),
        unscored_sheet(report),
        timed_sheet(report),
    ]
    return [sheet for sheet in sheets if sheet.rows]


def scores_sheet(title: str, head: list["Score"], scores: Iterable["Score"], notes: tuple[str, ...] = ()) -> Sheet:
    """Errors by source and metric."""
    columns = (
        Column("source"),
        Column("metric"),
        Column("GPUs"),
        Column("n", numeric=True),
        Column("median", numeric=True),
        Column("p95", numeric=True, optional=True),
        Column("over", numeric=True),
        Column("under", numeric=True),
        Column("covered", numeric=True, optional=True),
        Column("worst case", optional=True),
    )
    rows = tuple(_score(score) for score in (*head, *scores))
    return Sheet(title, columns, rows, rules=(1,) if head else (), notes=notes)


def _score(score: "Score") -> tuple[Cell, ...]:
    metric = score.metric if score.kind == "value" else f"{score.metric} (bound)"
    errors = (
        f"{score.median_error:.1%}",
        f"{score.p95_error:.1%}",
        f"{score.worst_over:+.1%}",
        f"{score.worst_under:+.1%}",
        "–" if score.coverage is None else f"{score.coverage:.0%}",
    )
    return row((Cell(score.source, "strong"), metric, score.cards, str(score.n), *errors, score.worst_case))


def fits_sheet(title: str, group: "Group") -> Sheet:
    """What ran and what did not, against our verdicts."""
    columns = (Column("published"), *(Column(text, numeric=True) for text, _ in words.VERDICTS.values()))
    rows = tuple(
        row((Cell(text, "strong"), *(str(group.fits.count(outcome, verdict)) for verdict in words.VERDICTS)))  # type: ignore[arg-type]
        for outcome, text in OUTCOMES
        if group.fits.n
    )
    notes = [f"ran, though we say it does not fit: {name}" for name in group.fits.ran_but_refused]
    notes += [f"ran out of memory, though we say it fits: {name}" for name in group.fits.oom_but_fits]
    return Sheet(title, columns, rows, notes=tuple(notes))


def held_sheet(group: "Group") -> Sheet:
    """How often intervals hold values of sources that they were made without."""
    columns = (Column("source"), Column("values", numeric=True), Column("held", numeric=True), Column("", numeric=True))
    rows = [
        row((Cell(one.source, "strong"), str(one.n), str(one.held), f"{one.held / one.n:.0%}"))
        for one in held_by_source(group.checks)
    ]
    note = f"Each source is left out of the table that its intervals come from. They are to hold {COVERAGE:.0%}."
    return Sheet("Intervals", columns, tuple(rows), rules=(len(rows) - 1,) if rows else (), notes=(note,))


def several_sheet(found: Iterable["Several"]) -> Sheet:
    """Runs on several GPUs, all metrics of a source together."""
    columns = (
        Column("source"),
        Column("as"),
        Column("runs", numeric=True),
        Column("numbers", numeric=True),
        Column("median", numeric=True),
        Column("worst", numeric=True),
        Column("far off", numeric=True),
        Column("worst case", optional=True),
    )
    rows = tuple(
        row(
            (
                Cell(one.source, "strong"),
                words_of(one),
                str(one.runs),
                str(one.n),
                f"{one.median_error:.1%}",
                f"{one.worst_error:+.1%}",
                str(len(one.far)),
                one.worst_case,
            )
        )
        for one in found
    )
    return Sheet("Several GPUs, by source", columns, rows)


def words_of(one: "Several") -> str:
    """Whether runs of a source are of our stacks or stand in."""
    return "stand-ins" if one.stand_ins else "our stacks"


def far_sheet(found: Iterable["Several"]) -> Sheet:
    """Every number of several GPUs that is far off, and why."""
    columns = (Column("run"), Column("metric"), Column("error", numeric=True), Column("why", wraps=True))
    rows = tuple(
        row((Cell(far.case, "strong"), far.metric, f"{far.error:+.1%}", far.why)) for one in found for far in one.far
    )
    return Sheet(f"Several GPUs: numbers off by more than {FAR:.0%}, and why", columns, rows)


def spare_sheet(found: Iterable["SpareScore"]) -> Sheet:
    """What the allocator keeps on several GPUs: with the shipped line, and with one that has not seen the source."""
    columns = (
        Column("source"),
        Column("runs"),
        Column("n", numeric=True),
        Column("median", numeric=True),
        Column("worst", numeric=True),
        Column("held out: median", numeric=True, optional=True),
        Column("worst", numeric=True, optional=True),
    )
    rows = tuple(
        row(
            (
                Cell(one.source, "strong"),
                one.runs,
                str(one.n),
                f"{one.shipped_median:.1%}",
                f"{one.shipped_worst:+.1%}",
                f"{one.held_out_median:.1%}",
                f"{one.held_out_worst:+.1%}",
            )
        )
        for one in found
    )
    return Sheet("Several GPUs: reserved and device bytes, whose share was fitted", columns, rows)


def unscored_sheet(report: "Report") -> Sheet:
    """Rows that are kept and not predicted."""
    columns = (
        Column("reason"),
        Column("rows", numeric=True),
        Column("which", wraps=True),
        Column("sources", optional=True),
    )
    rows = tuple(
        row((Cell(item.reason, "strong"), str(item.n), item.detail, ", ".join(item.sources)))
        for item in report.unscored
    )
    refused = (*report.own.refused, *report.stand_ins.refused)
    counts = f"{report.own.predicted} predicted, {report.stand_ins.predicted} as stand-ins, "
    counts += f"{report.unmodelled} not modelled, {len(refused)} refused"
    return Sheet(f"{report.rows} rows: {counts}", columns, rows, notes=tuple(_refusals(refused)))


def _refusals(refused: Iterable[tuple[str, str]]) -> Iterator[str]:
    """One line for each reason, with its cases where they are few."""
    groups: dict[str, list[str]] = {}
    for name, why in refused:
        groups.setdefault(why, []).append(name)
    for why, names in groups.items():
        yield f"refused {', '.join(names) if len(names) <= FEW else len(names)}: {why}"


def timed_sheet(report: "Report") -> Sheet:
    """Rows that tell a time."""
    columns = (
        Column("source"),
        Column("metric"),
        Column("rows", numeric=True),
        Column("of what", wraps=True, optional=True),
    )
    rows = tuple(
        row((Cell(item.source, "strong"), item.metric, str(item.n), "; ".join(item.scopes))) for item in report.timed
    )
    return Sheet("Times: rows that print one (predicted by --against times)", columns, rows)


def report_document(report: "Report") -> dict[str, object]:
    """The same for scripts; errors are ratios."""
    return {
        "schema": 1,
        "evidence": report.evidence,
        "notes": list(report.notes),
        "rows": report.rows,
        "unmodelled": report.unmodelled,
        "headline": None if report.headline is None else _score_document(report.headline),
        "own": _group_document(report.own),
        "stand_ins": _group_document(report.stand_ins),
        "several": [_several_document(one) for one in report.several],
        "spare": [one._asdict() for one in report.spare],
        "unscored": [
            {"reason": item.reason, "detail": item.detail, "n": item.n, "sources": list(item.sources)}
            for item in report.unscored
        ],
        "timed": [
            {"source": item.source, "metric": item.metric, "n": item.n, "scopes": list(item.scopes)}
            for item in report.timed
        ],
    }


def _group_document(group: "Group") -> dict[str, object]:
    return {
        "predicted": group.predicted,
        "refused": [{"id": name, "why": why} for name, why in group.refused],
        "scores": [_score_document(score) for score in group.scores],
        "verdicts": [
            {"published": outcome, "verdict": verdict, "n": n}
            for (outcome, verdict), n in sorted(group.fits.counts.items())
        ],
        "ran_but_refused": list(group.fits.ran_but_refused),
        "oom_but_fits": list(group.fits.oom_but_fits),
    }


def _several_document(one: "Several") -> dict[str, object]:
    names = ("source", "stand_ins", "runs", "n", "median_error", "worst_error", "worst_case")
    return {**{name: getattr(one, name) for name in names}, "far": [far._asdict() for far in one.far]}


_SCORE = ("source", "metric", "cards", "kind", "n", "median_error", "p95_error", "worst_error")


def _score_document(score: "Score") -> dict[str, object]:
    names = (*_SCORE, "worst_over", "worst_under", "worst_case", "coverage")
    return {name: getattr(score, name) for name in names}
