"""The generated parts of README.md and docs/: one function each, no arguments in, Markdown out."""

import contextlib
import io
import json
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter

from planner.catalog import list_models
from planner.cli import main as run_plan
from planner.cli.app import COMMANDS
from planner.closed_form import estimate
from planner.formulas.overhead import spare_fraction
from planner.hardware import list_classes, list_gpus
from planner.recommend.rules import FAMILIES, RULES, documentation
from planner.render import document
from planner.render.explained import rule_parts
from planner.render.markdown import escape
from planner.spec import FIGURES
from planner.validation import Report, Score, validate
from planner.validation.against import Agreement, Deviation, compare
from planner.validation.grid import grid
from planner.validation.report import NEARLY_FULL, scenario_of
from planner.validation.traced import read_traced, stored_grid

STACKS = Path(__file__).resolve().parents[1] / "planner" / "stacks"

Section = Callable[[], str]


def table(head: Iterable[str], rows: Iterable[Iterable[object]], *, right: Iterable[int] = ()) -> str:
    """A Markdown table; ``right`` names the columns of numbers, counted from 0."""
    names, numeric = list(head), set(right)
    lines = [names, ["---:" if place in numeric else "---" for place in range(len(names))]]
    lines += [[str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(text: object) -> str:
    """Text in code style, fit for a table."""
    return f"`{text}`".replace("|", "\\|")


def percent(ratio: float, places: int = 1, *, sign: bool = False) -> str:
    """A ratio with ``places`` decimals, never "-0.0"."""
    shown = round(ratio * 100, places) + 0.0
    return f"{shown:+.{places}f} %" if sign and shown else f"{shown:.{places}f} %"


# ---------------------------------------------------------------- the command


def cli() -> str:
    """The help of every command, as it prints it."""
    names = ["", *(command.name for command in COMMANDS)]
    return "\n\n".join(f"### {f'plan {name}'.strip()}\n\n```text\n{_help(name).strip()}\n```" for name in names)


def _help(name: str) -> str:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            run_plan([*name.split(), "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return output.getvalue()


# ---------------------------------------------------------------- data


def catalogue() -> str:
    """How many models and GPUs there are."""
    models, gpus = list_models(), list_gpus()
    kinds = len({row.model_type for row in models})
    return (
        f"The catalogue holds {len(models)} models of {kinds} architectures, and {len(gpus)} GPUs in "
        f"{len(list_classes())} size classes. `plan models` and `plan gpus` list them."
    )


def estimated() -> str:
    """Cards with figures that nobody has measured."""
    found: dict[str, list[str]] = {}
    for gpu in list_gpus():
        for field in gpu.estimated:
            found.setdefault(field, []).append(gpu.id)
    rows = [(FIGURES[field], len(ids), ", ".join(map(code, ids))) for field, ids in sorted(found.items())]
    return table(("figure", "cards", "which"), rows, right=[1])


def stacks() -> str:
    """Every rule of every stack, with its source."""
    return "\n\n".join(_stack(name) for name in ("libraries", "plain", "hf", "trl"))


def _stack(name: str) -> str:
    content = tomllib.loads((STACKS / f"{name}.toml").read_text(encoding="utf-8"))
    newest = ", ".join(f"{package} {version}" for package, version in content.get("newest", {}).items())
    rows = [(_sets(rule["set"]), _when(rule.get("when", {})), escape(rule["source"])) for rule in content["rule"]]
    about = content.get("description", "What the libraries do, whoever calls them")
    parts = [f"### {name}", f"{about[:1].upper()}{about[1:]}."]
    if newest:
        parts.append(f"Taken where no version is named: {newest}.")
    return "\n\n".join([*parts, table(("sets", "when", "source"), rows)])


def _when(conditions: Mapping[str, str]) -> str:
    return ", ".join(code(f"{package} {condition}") for package, condition in conditions.items()) or "always"


def _sets(values: Mapping[str, Any]) -> str:
    return "<br>".join(code(f"{key} = {json.dumps(value)}") for key, value in values.items())


# ---------------------------------------------------------------- rules


def rules() -> str:
    """Every rule's page, by family."""
    parts = []
    for family, about in FAMILIES.items():
        parts.append(f"## {family}: {about}")
        parts += [_rule(rule) for rule in RULES if rule.code.startswith(family)]
    return "\n\n".join(parts)


def _rule(rule: Any) -> str:  # noqa: ANN401  (a protocol with class variables)
    sentence, paragraphs = rule_parts(documentation(rule))
    lines = [f"- **{escape(head)}.** {escape(text)}" if head else f"- {escape(text)}" for head, text in paragraphs]
    first = escape(sentence.removeprefix(f"{rule.code}: "))
    asked = {"each": "Asked of every candidate.", "choice": "Asked of the recommended candidate."}[rule.scope]
    return "\n".join([f"### {rule.code} {rule.slug}", "", f"{first[:1].upper()}{first[1:]} {asked}", "", *lines])


# ---------------------------------------------------------------- JSON


def schema() -> str:
    """The keys of every object in the document, from the types."""
    found = [value for value in vars(document).values() if isinstance(value, type) and hasattr(value, "__total__")]
    ordered = sorted(found, key=lambda kind: kind is not document.PlanDocument)
    return "\n\n".join(_object(kind) for kind in ordered)


def _object(kind: type) -> str:
    about = _about(kind)
    keys = get_type_hints(kind, include_extras=False)
    rows = [(code(key), escape(_type(value))) for key, value in keys.items()]
    head = f"### {kind.__name__}"
    return "\n\n".join([head, *([escape(about)] if about else []), table(("key", "type"), rows)])


def _about(kind: type) -> str:
    text = " ".join((kind.__doc__ or "").split())
    return "" if text.startswith("dict(") else text.replace("``", "")


def _type(value: Any) -> str:  # noqa: ANN401  (any annotation)
    """An annotation in JSON's words.

    >>> _type(list[int]), _type(str | None), _type(Literal["a", "b"])
    ('array of integer', 'string or null', '"a" or "b"')
    """
    inner = get_args(value)
    if get_origin(value) is list:
        return f"array of {_type(inner[0])}"
    if get_origin(value) is dict:
        return f"object of {_type(inner[1])}"
    if get_origin(value) is Literal:
        return " or ".join(json.dumps(choice) for choice in inner)
    if inner:
        return " or ".join(map(_type, inner))
    return JSON_WORDS.get(value) or str(value.__name__)


JSON_WORDS = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def schema_text() -> str:
    """The JSON schema of what ``plan --format json`` prints."""
    found = TypeAdapter(document.PlanDocument).json_schema()
    return json.dumps(found, indent=2) + "\n"


# ---------------------------------------------------------------- validation


@cache
def report() -> Report:
    """What ``plan validate`` computes, once."""
    return validate()


def accuracy() -> str:
    """The few numbers that a reader of the README wants, from ``plan validate``."""
    found = report()
    fits = found.fits
    head = found.headline
    assert head is not None
    lines = [
        f"- {found.rows} published rows are kept, {found.modelled} of them on software that is modelled here; the "
        f"other {found.unmodelled} are counted by reason, not dropped.",
        f"- Allocated bytes of single-GPU runs whose settings are all published (n = {head.n}): median error "
        f"{percent(head.median_error)}, worst {percent(head.worst_error, sign=True)}.",
        f"- Of {fits.n} published outcomes, {fits.count('ran', 'fits') + fits.count('ran', 'tight')} of "
        f"{_ran(found)} runs that completed are said to fit or to be tight, and {fits.count('oom', 'fits')} of "
        f"{_oom(found)} that ran out of memory are said to fit ({fits.count('oom', 'tight')} are said to be tight).",
    ]
    return "\n".join(lines)


def _ran(found: Report) -> int:
    return sum(count for (outcome, _), count in found.fits.counts.items() if outcome == "ran")


def _oom(found: Report) -> int:
    return found.fits.n - _ran(found)


def validation_scores() -> str:
    """Errors by source and metric."""
    found = report()
    head = [] if found.headline is None else [("**all settings published**", *_score(found.headline)[1:])]
    names = ("source", "metric", "GPUs", "n", "median", "worst", "lowest", "worst case")
    return table(names, [*head, *map(_score, found.scores)], right=[3, 4, 5, 6])


def _score(score: Score) -> tuple[str, ...]:
    metric = score.metric if score.kind == "value" else f"{score.metric} (bound)"
    errors = (percent(score.median_error), percent(score.worst_error, sign=True), percent(score.worst_under, sign=True))
    return code(score.source), metric, score.cards, str(score.n), *errors, code(score.worst_case)


def validation_fits() -> str:
    """Published outcomes against verdicts, and every case where they disagree."""
    fits = report().fits
    verdicts = ("fits", "tight", "does_not_fit")
    outcomes = (("ran", "ran"), ("oom", "ran out of memory"))
    rows = [(text, *(fits.count(outcome, verdict) for verdict in verdicts)) for outcome, text in outcomes]  # type: ignore[arg-type]
    lines = [f"Said not to fit, and ran: {_names(fits.ran_but_refused)}."]
    lines.append(f"Said to fit, and ran out of memory: {_names(fits.oom_but_fits)}.")
    return "\n\n".join([table(("published", "fits", "tight", "does not fit"), rows, right=[1, 2, 3]), *lines])


def _names(ids: tuple[str, ...]) -> str:
    return ", ".join(map(code, ids)) or "none"


def validation_unmodelled() -> str:
    """Rows that are kept and not predicted, by reason."""
    found = report()
    rows = [(item.reason, item.n, escape(item.detail), ", ".join(map(code, item.sources))) for item in found.unscored]
    counts = f"{found.rows} rows: {found.modelled} predicted, {found.unmodelled} not modelled"
    counts += f", {len(found.refused)} refused."
    refused = [f"- {code(name)}: {escape(why)}" for name, why in found.refused]
    return "\n\n".join([counts, table(("reason", "rows", "which", "sources"), rows, right=[1]), *refused])


def validation_sources() -> str:
    """Where the published numbers stand."""
    rows = [
        (code(one.id), f"[{escape(one.title)}]({one.repository})", code(one.file), one.revision or "", one.date)
        for one in report().sources
    ]
    return table(("id", "source", "file", "revision", "date"), rows)


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


def spare() -> str:
    """The share by which reserved exceeds allocated, recomputed from the anchors behind the constants."""
    groups: dict[tuple[str, str], list[float]] = {}
    published: dict[str, dict[str, int]] = {}
    for check in report().checks:
        if check.kind == "value":
            published.setdefault(check.case.id, {})[check.published.metric] = check.published.low_bytes
    for check in report().checks:
        case, numbers = check.case, published.get(check.case.id, {})
        if check.published.metric != "device" or check.kind != "value" or "allocated" not in numbers:
            continue
        if case.gpus == 1 and case.source.id.startswith("fms-"):
            scenario = scenario_of(case)
            memory = estimate(scenario).peak_memory
            varying = memory.activations + memory.logits + memory.temporaries
            reserved = numbers["device"] - scenario.cluster.gpu.context_bytes
            key = (scenario.train.loss, scenario.train.kernels)
            groups.setdefault(key, []).append((reserved - numbers["allocated"]) / varying)
    rows = [
        (*key, len(found), f"{min(found):.2f} to {max(found):.2f}", f"{median(found):.2f}", spare_fraction(*key))
        for key, found in sorted(groups.items())
    ]
    note = f"Left out: runs on a card more than {NEARLY_FULL:.0%} full, where the allocator had given back its cache."
    return "\n\n".join([table(("loss", "kernels", "n", "range", "median", "used"), rows, right=[2, 4, 5]), note])


SECTIONS: Mapping[str, Section] = {
    "accuracy": accuracy,
    "catalogue": catalogue,
    "cli": cli,
    "estimated": estimated,
    "rules": rules,
    "schema": schema,
    "spare": spare,
    "stacks": stacks,
    "traced_families": traced_families,
    "traced_methods": traced_methods,
    "traced_owners": traced_owners,
    "traced_phases": traced_phases,
    "traced_refusals": traced_refusals,
    "traced_summary": traced_summary,
    "validation_fits": validation_fits,
    "validation_scores": validation_scores,
    "validation_sources": validation_sources,
    "validation_unmodelled": validation_unmodelled,
}
