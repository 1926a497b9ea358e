"""The generated parts of docs/validation.md."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

from docs.tables import code, percent, table
from planner.hardware import load_gpu
from planner.render.markdown import escape
from planner.render.validated import words_of
from planner.throughput.constants import constants
from planner.throughput.record import IN_WORDS, records
from planner.validation import Far, Group, Report, Score, Table, held_by_source, load_anchors, validate_held_out
from planner.validation.against import Agreement, Deviation, compare
from planner.validation.grid import grid
from planner.validation.heldout import neighbour_scores
from planner.validation.time_fit import A100, H100, START
from planner.validation.time_record import PLAIN, stored
from planner.validation.timed_rows import counted, timed_rows
from planner.validation.timing import by_source, errors_of
from planner.validation.traced import read_traced, stored_grid

# ---------------------------------------------------------------- published runs


@cache
def report() -> Report:
    """What ``plan validate`` computes, once."""
    return validate_held_out()


def ran_count(fits: Table) -> int:
    """Published runs that completed."""
    return sum(count for (outcome, _), count in fits.counts.items() if outcome == "ran")


def validation_scores() -> str:
    """Errors by source and metric, of the stacks that we model."""
    found = report()
    head = [] if found.headline is None else [("**all settings published**", *_score(found.headline)[1:])]
    return _scores(head, found.own.scores)


def stand_in_scores() -> str:
    """The same of other trainers' runs."""
    return _scores([], report().stand_ins.scores)


def _scores(head: Sequence[tuple[str, ...]], scores: Iterable[Score]) -> str:
    names = ("source", "metric", "GPUs", "n", "median", "p95", "over", "under", "worst case")
    return table(names, [*head, *map(_score, scores)], right=[3, 4, 5, 6, 7])


def _score(score: Score) -> tuple[str, ...]:
    metric = score.metric if score.kind == "value" else f"{score.metric} (bound)"
    errors = (
        percent(score.median_error),
        percent(score.p95_error),
        percent(score.worst_over, sign=True),
        percent(score.worst_under, sign=True),
    )
    return code(score.source), metric, score.cards, str(score.n), *errors, code(score.worst_case)


def validation_held() -> str:
    """How often intervals hold what they were made without: by source, and of neighbours."""
    rows = [
        (code(one.source) if one.source != "all" else "**all**", one.n, one.held, percent(one.held / one.n))
        for one in held_by_source(report().own.checks)
    ]
    return table(("source", "values", "held", "share"), rows, right=[1, 2, 3])


def validation_neighbours() -> str:
    """The same where one run of a model predicts another."""
    rows = [
        (one.known, one.n, percent(one.held / one.n), percent(one.median_error, 3), percent(one.corrected_error, 3))
        for one in neighbour_scores(report().own.checks)
    ]
    names = ("runs of the model that are known", "n", "held", "median error", "corrected")
    return table(names, rows, right=[1, 2, 3, 4])


def validation_fits() -> str:
    """Published outcomes against verdicts, and every case where they disagree."""
    return _fits(report().own)


def stand_in_fits() -> str:
    """The same of other trainers' runs."""
    return _fits(report().stand_ins)


def _fits(group: Group) -> str:
    fits = group.fits
    verdicts = ("fits", "tight", "does_not_fit")
    outcomes = (("ran", "ran"), ("oom", "ran out of memory"))
    rows = [(text, *(fits.count(outcome, verdict) for verdict in verdicts)) for outcome, text in outcomes]  # type: ignore[arg-type]
    lines = [f"Said not to fit, and ran: {_names(fits.ran_but_refused)}."]
    lines.append(f"Said to fit, and ran out of memory: {_names(fits.oom_but_fits)}.")
    return "\n\n".join([table(("published", "fits", "tight", "does not fit"), rows, right=[1, 2, 3]), *lines])


def _names(ids: tuple[str, ...]) -> str:
    return ", ".join(map(code, ids)) or "none"


def validation_several() -> str:
    """Runs on several GPUs by source."""
    rows = [
        (
            code(one.source),
            words_of(one),
            one.runs,
            one.n,
            percent(one.median_error),
            percent(one.worst_error, sign=True),
            len(one.far),
            code(one.worst_case),
        )
        for one in report().several
    ]
    names = ("source", "as", "runs", "numbers", "median", "worst", "far off", "worst case")
    return table(names, rows, right=[2, 3, 4, 5, 6])


def validation_far() -> str:
    """Numbers of several GPUs that are far off, and why: runs with one reason together."""
    groups: dict[tuple[str, str], list[Far]] = {}
    for one in report().several:
        for far in one.far:
            groups.setdefault((far.metric, far.why), []).append(far)
    rows = [
        ("<br>".join(f"{code(far.case)} {percent(far.error, sign=True)}" for far in found), metric, escape(why))
        for (metric, why), found in groups.items()
    ]
    return table(("runs", "metric", "why"), rows)


def validation_spare() -> str:
    """Reserved and device bytes of several GPUs, as shipped and held out."""
    rows = [
        (
            code(one.source),
            one.runs,
            one.n,
            percent(one.shipped_median),
            percent(one.shipped_worst, sign=True),
            percent(one.held_out_median),
            percent(one.held_out_worst, sign=True),
        )
        for one in report().spare
    ]
    names = ("source", "runs", "n", "median", "worst", "held out: median", "worst")
    return table(names, rows, right=[2, 3, 4, 5, 6])


def validation_assumed() -> str:
    """What sources of runs on several GPUs leave open, and how it is filled in."""
    groups: dict[str, list[str]] = {}
    for file in load_anchors():
        for case in (*file.cases, *file.stand_ins):
            if case.assumed:
                groups.setdefault(case.assumed, []).append(case.id)
    rows = [("<br>".join(map(code, found)), escape(assumed)) for assumed, found in groups.items()]
    return table(("runs", "not stated, and how it is put"), rows)


def validation_unmodelled() -> str:
    """Rows that are kept and not predicted, by reason."""
    found = report()
    rows = [(item.reason, item.n, escape(item.detail), ", ".join(map(code, item.sources))) for item in found.unscored]
    refused = (*found.own.refused, *found.stand_ins.refused)
    counts = f"{found.rows} rows: {found.own.predicted} predicted, {found.stand_ins.predicted} as stand-ins, "
    counts += f"{found.unmodelled} not modelled, {len(refused)} refused."
    lines = [f"- {code(name)}: {escape(why)}" for name, why in refused]
    return "\n\n".join([counts, table(("reason", "rows", "which", "sources"), rows, right=[1]), *lines])


def validation_timed() -> str:
    """Rows that tell a time, by source."""
    found = report().timed
    rows = [(code(item.source), item.metric, item.n, escape("; ".join(item.scopes))) for item in found]
    return table(("source", "metric", "rows", "of what"), rows, right=[2])


def validation_times() -> str:
    """Errors of time by source: of the shipped constants, and of constants that had not seen the source."""
    seen = {one.name: one for one in by_source(errors_of())}
    rows = []
    for score, held in stored("held_out"):
        ours = seen[score.name]
        name = "**all**" if score.name == "all" else code(score.name)
        both = (percent(one) for one in (ours.median, ours.p90, score.median, score.p90))
        rows.append((name, score.n, percent(ours.bias, sign=True), *both, percent(held / score.n)))
    names = ("source", "runs", "bias", "median", "p90", "held out: median", "p90", "in its bounds")
    return table(names, rows, right=[1, 2, 3, 4, 5, 6, 7])


def validation_kinds() -> str:
    """Bounds by kind of run, and how the held-out runs lie in them."""
    found = {score.name: (score, held) for score, held in stored("kinds")}
    rows = []
    for name, record in records().items():
        score, held = found.get(name, (None, 0))
        share = percent(held / score.n) if score else "none to hold"
        middle = percent(score.median) if score else ""
        rows.append((IN_WORDS[name], record.n, f"{record.low:.2f} to {record.high:.2f}", middle, share))
    names = ("kind of run", "runs", "measured for each of ours", "held out: median", "in bounds")
    return table(names, rows, right=[1, 3, 4])


def validation_constants() -> str:
    """What was fitted, from where it started, and what it rests on."""
    known = constants()
    rows = [(f"{name}", f"{START[name]:.3g}", f"{getattr(known, name).value:.3g}") for name in PLAIN]
    for card, chip in (("a100-80gb", A100), ("h100", H100)):
        gpu = load_gpu(card)
        for what, share in (("products", gpu.products), ("attention", gpu.attention)):
            rows.append((f"{what}, {chip}", f"{START[f'{chip} {what}']:.3g}", f"{share.value:.3g}" if share else ""))
    return table(("constant", "known before", "fitted"), rows, right=[1, 2])


def validation_untimed() -> str:
    """Rows with a time that we cannot put as a question, by reason."""
    runs, left = timed_rows()
    counts = f"{len(runs)} rows are predicted, {len(left)} left out."
    return "\n\n".join([counts, table(("why", "rows"), list(counted(left)), right=[1])])


def validation_own() -> str:
    """Devices on which ``plan measure`` ran, or that there are none."""
    own = [one for one in report().sources if one.device is not None]
    if not own:
        return "There are none yet. Every number on this page was measured by others, or traced."
    rows = [
        (code(one.id), escape(one.device.name), escape(_versions(one.device.versions)), one.date)
        for one in own
        if one.device is not None
    ]
    return table(("id", "device", "versions", "date"), rows)


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def validation_sources() -> str:
    """Where the published numbers stand."""
    rows = [
        (code(one.id), f"[{escape(one.title)}]({one.repository})", code(one.file), one.revision or "", one.date)
        for one in report().sources
        if one.device is None
    ]
    return table(("id", "source", "file", "revision", "date"), rows)


# ---------------------------------------------------------------- traces


@cache
def agreement() -> Agreement:
    """The closed form against the stored traces of the whole grid, once."""
    return compare(grid(), read_traced(stored_grid()))


def traced_summary() -> str:
    """What was compared, and the one line that matters."""
    found = agreement()
    head = found.headline
    assert head is not None
    models = len({one.case.model for one in found.comparisons})
    families = len({one.family for one in found.comparisons})
    versions = ", ".join(f"{name} {version}" for name, version in found.versions)
    return (
        f"{head.n} cases of {models} models, {families} architectures. Peak: median error {percent(head.median, 2)}, "
        f"worst {percent(head.worst, 2, sign=True)}. Traced on {found.date} with {versions}."
    )


def traced_methods() -> str:
    """Errors of the peak by method."""
    found = agreement()
    head = [] if found.headline is None else [found.headline]
    return _deviations("method", [*head, *found.by_method])


def traced_families() -> str:
    """Errors of the peak by architecture."""
    return _deviations("architecture", agreement().by_family)


def traced_phases() -> str:
    """Errors of every phase."""
    return _deviations("phase", agreement().by_phase)


def traced_owners() -> str:
    """Errors of every owner at the peak."""
    return _deviations("owner", agreement().by_owner)


def _deviations(side: str, found: Iterable[Deviation]) -> str:
    rows = [
        (one.name, one.n, percent(one.median, 2), percent(one.worst, 2, sign=True), code(one.case)) for one in found
    ]
    return table((side, "n", "median", "worst", "worst case"), rows, right=[1, 2, 3])


def traced_refusals() -> str:
    """What only one of the two answers."""
    found = agreement()
    lists = (
        ("Refused by the closed form, traced", found.only_traced),
        ("Refused by the trace, answered by the closed form", found.only_closed),
        ("Refused by both", found.neither),
    )
    return "\n\n".join(f"{title}:{_refused(pairs)}" for title, pairs in lists)


def _refused(pairs: tuple[tuple[str, str], ...]) -> str:
    if not pairs:
        return " none."
    return "\n\n" + "\n".join(f"- {code(name)}: {escape(why)}" for name, why in pairs)


SECTIONS: Mapping[str, Callable[[], str]] = {
    "stand_in_fits": stand_in_fits,
    "stand_in_scores": stand_in_scores,
    "traced_families": traced_families,
    "traced_methods": traced_methods,
    "traced_owners": traced_owners,
    "traced_phases": traced_phases,
    "traced_refusals": traced_refusals,
    "traced_summary": traced_summary,
    "validation_assumed": validation_assumed,
    "validation_far": validation_far,
    "validation_fits": validation_fits,
    "validation_held": validation_held,
    "validation_neighbours": validation_neighbours,
    "validation_own": validation_own,
    "validation_scores": validation_scores,
    "validation_several": validation_several,
    "validation_sources": validation_sources,
    "validation_spare": validation_spare,
    "validation_timed": validation_timed,
    "validation_times": validation_times,
    "validation_kinds": validation_kinds,
    "validation_constants": validation_constants,
    "validation_untimed": validation_untimed,
    "validation_unmodelled": validation_unmodelled,
}
