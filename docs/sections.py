"""The generated parts of README.md and docs/: one function each, no arguments in, Markdown out."""

import contextlib
import io
import json
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args, get_origin, get_type_hints

from docs import agreed, decided, many_gpus, validated
from docs.schemas import PUBLISHED, identifier, objects
from docs.tables import code, percent, table
from docs.validated import ran_count, report
from planner.calibration.published import table_text
from planner.catalog import list_models
from planner.cli import main as run_plan
from planner.cli.app import COMMANDS
from planner.closed_form import estimate
from planner.formulas.overhead import spare_fraction
from planner.hardware import list_classes, list_gpus
from planner.recommend.rules import FAMILIES, RULES, documentation
from planner.render.explained import rule_parts
from planner.render.markdown import escape
from planner.spec import FIGURES
from planner.stacks import STACKS as NAMES
from planner.validation.checks import NEARLY_FULL, scenario_of
from planner.validation.grid import grid
from planner.validation.residuals import table_of
from planner.validation.traced import read_traced, stored_grid
from planner.why.clues import CODES as CLUES
from planner.why.table import CODES as CHANGES

STACKS = Path(__file__).resolve().parents[1] / "planner" / "stacks"

Section = Callable[[], str]


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
    return "\n\n".join(_stack(name) for name in ("libraries", *NAMES))


def stacks_unset() -> str:
    """What every stack takes where its configuration is silent, with its source."""
    told = {name: _content(name).get("unset", []) for name in ("libraries", *NAMES)}
    return "\n\n".join(f"### {name}, unset\n\n{_rules(rules)}" for name, rules in told.items() if rules)


def _content(name: str) -> dict[str, Any]:
    return tomllib.loads((STACKS / f"{name}.toml").read_text(encoding="utf-8"))


def _stack(name: str) -> str:
    content = _content(name)
    newest = ", ".join(f"{package} {version}" for package, version in content.get("newest", {}).items())
    about = content.get("description", "What the libraries do, whoever calls them")
    parts = [f"### {name}", f"{about[:1].upper()}{about[1:]}."]
    if newest:
        parts.append(f"Taken where no version is named: {newest}.")
    return "\n\n".join([*parts, _rules(content["rule"])])


def _rules(rules: list[dict[str, Any]]) -> str:
    rows = [(_sets(rule["set"]), _when(rule.get("when", {})), escape(rule["source"])) for rule in rules]
    return table(("sets", "when", "source"), rows)


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
    """The keys of every object of every document, from the types."""
    return "\n\n".join(_object(kind) for kind in objects())


def schemas() -> str:
    """Which documents have a published schema."""
    rows = [
        (
            code(f"plan {name}".removesuffix(" plan")),
            f"[{name}.schema.json]({name}.schema.json)",
            code(identifier(name)),
        )
        for name in PUBLISHED
    ]
    return table(("printed by", "schema", "$id"), rows)


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


def published_text() -> str:
    """The table of published errors, which ships with the package."""
    return table_text(table_of(report().own.checks, grid(), read_traced(stored_grid())))


# ---------------------------------------------------------------- validation


def accuracy() -> str:
    """The few numbers that a reader of the README wants, from ``plan validate``."""
    found = report()
    fits = found.own.fits
    head = found.headline
    assert head is not None
    lines = [
        f"- {found.rows} published rows are kept, {found.own.predicted} of them on software that is modelled here; "
        f"{found.stand_ins.predicted} of other trainers are put as the nearest question and scored apart; the other "
        f"{found.unmodelled} are counted by reason, not dropped.",
        f"- Allocated bytes of single-GPU runs whose settings are all published (n = {head.n}): median error "
        f"{percent(head.median_error)}, worst {percent(head.worst_error, sign=True)}.",
        f"- Of {fits.n} published outcomes, {fits.count('ran', 'fits') + fits.count('ran', 'tight')} of "
        f"{ran_count(fits)} runs that completed are said to fit or to be tight, and {fits.count('oom', 'fits')} of "
        f"{fits.n - ran_count(fits)} that ran out of memory are said to fit ({fits.count('oom', 'tight')} are said to "
        "be tight).",
    ]
    return "\n".join(lines)


def spare() -> str:
    """The share by which reserved exceeds allocated, recomputed from the anchors behind the constants."""
    groups: dict[tuple[str, str], list[float]] = {}
    published: dict[str, dict[str, int]] = {}
    for check in report().own.checks:
        if check.kind == "value":
            published.setdefault(check.case.id, {})[check.published.metric] = check.published.low_bytes
    for check in report().own.checks:
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


# ---------------------------------------------------------------- why


def why_codes() -> str:
    """Every clue and every change of ``plan why``."""
    rows = [(code, escape(text)) for code, text in sorted({**CLUES, **CHANGES}.items())]
    return table(("code", "what it says"), rows)


SECTIONS: Mapping[str, Section] = {
    "accuracy": accuracy,
    "catalogue": catalogue,
    "cli": cli,
    "estimated": estimated,
    "rules": rules,
    "schema": schema,
    "schemas": schemas,
    "spare": spare,
    "stacks": stacks,
    "stacks_unset": stacks_unset,
    "why_codes": why_codes,
    **validated.SECTIONS,
    **decided.SECTIONS,
    **agreed.SECTIONS,
    **many_gpus.SECTIONS,
}
