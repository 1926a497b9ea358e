"""What a configuration was understood to say, before the plan of it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from planner.configs.checking import Checked, acts
from planner.configs.understood import Reading
from planner.render import plan_text, words
from planner.render.config_document import CheckDocument, ConfigDocument, KeyDocument
from planner.render.lines import EMPTY, Line, Screen, paragraph
from planner.render.machine import plan_document
from planner.render.markdown import plan_markdown, sheet_markdown
from planner.render.sheet import Cell, Column, Sheet, printable, row
from planner.render.terminal import plan_lines, sheets_lines
from planner.result import Verdict
from planner.spec import MOMENT_SETTINGS
from planner.units import format_gib

VERBS: Mapping[Verdict, str] = {"fits": "fits", "tight": "is tight", "does_not_fit": "does not fit"}
"""Verdicts as a sentence has them."""

LONGEST = 60
"""Characters of a value in a table."""


def checked_lines(found: Checked, screen: Screen) -> list[Line]:
    """The verdict in a sentence, what the files say, and the plan."""
    first = paragraph(sentence(found), screen.width, "strong")
    return [*first, EMPTY, *sheets_lines(sheets(found), screen), EMPTY, *plan_lines(found.plan, screen)]


def checked_markdown(found: Checked) -> str:
    """The same for a page or a comment."""
    tables = "\n".join(sheet_markdown(sheet) for sheet in sheets(found))
    return f"**{sentence(found)}**\n\n{tables}\n{plan_markdown(found.plan)}"


def sentence(found: Checked) -> str:
    """Whether the run fits, in one sentence."""
    peak, cluster = found.candidate.estimate.peak, found.candidate.scenario.cluster
    names = " with ".join(printable(one.name) for one in found.documents)
    return (
        f"{names} {VERBS[found.candidate.verdict]}: {found.candidate.method} of {found.plan.model.name} "
        f"needs {format_gib(peak.required_bytes)} of {format_gib(cluster.usable_bytes)} GiB on {words.cards(cluster)}"
    )


def sheets(found: Checked) -> tuple[Sheet, ...]:
    """Keys that were used, what the trainer takes for those that are not there, and the others."""
    used = (_used(found, name) for name in dict.fromkeys(one.name for one in found.documents))
    return tuple(sheet for sheet in (*used, _unset(found), _warned(found)) if sheet.rows or sheet.notes)


def _used(found: Checked, file: str) -> Sheet:
    """The keys of one file; its name stands above them where there are several."""
    of_file = [one for one in found.understood.readings if one.file == file]
    rows = [row([printable(one.key), _shown(one.value), _meaning(one, found)]) for one in of_file if one.fate == "used"]
    ignored = ", ".join(printable(one.key) for one in of_file if one.fate == "ignored")
    whose = found.format.title if len(found.documents) == 1 else printable(file)
    return Sheet(
        title=f"{whose}: keys that decide memory and time",
        columns=(Column("key", wraps=True), Column("value", wraps=True), Column("means", wraps=True)),
        rows=tuple(rows),
        notes=(f"without influence: {ignored}",) if ignored else (),
    )


def _unset(found: Checked) -> Sheet:
    scenario = found.candidate.scenario
    told = {*found.overridden, *(one.sets for one in found.understood.of("used"))}
    names = [name for name in found.unset if acts(name, scenario) and name not in told]
    stack = plan_text.software(found.plan).partition(",")[0]
    return Sheet(
        title=f"not said, so what {stack} takes",
        columns=(Column("setting"), Column("value", wraps=True)),
        rows=tuple(row([words.option(name), _shown(getattr(scenario.train, name))]) for name in names),
    )


def _warned(found: Checked) -> Sheet:
    left = (*found.understood.of("unmodelled"), *found.understood.of("unknown"))
    columns = (Column("key"), Column("value", wraps=True), Column("why", wraps=True))
    return Sheet(
        title="not understood" if left else "notes on the files",
        columns=columns if left else (),
        rows=tuple(row([Cell(printable(one.key), "warn"), _shown(one.value), one.why]) for one in left),
        notes=tuple(printable(note) for note in found.understood.notes),
    )


def _shown(value: object) -> str:
    text = words.value(value)
    return printable(text if len(text) <= LONGEST else text[: LONGEST - 3] + "...")


def _meaning(one: Reading, found: Checked) -> str:
    """What a key decided, in the words of our options."""
    train, cluster = found.candidate.scenario.train, found.candidate.scenario.cluster
    if one.sets == "model":
        return found.plan.model.name
    if one.sets in ("gpus", "nodes"):
        over = ", by the command" if found.understood.gpus is None else ""
        return f"{words.option(one.sets)} {cluster.world_size if one.sets == 'gpus' else cluster.nodes}{over}"
    if one.sets in MOMENT_SETTINGS and not train.moments:
        return "not planned here"
    if one.sets == "stack":
        return f"FSDP of version {found.candidate.scenario.stack.fsdp_version}"
    if one.sets == "peft_config":
        return words.option(one.sets)  # the whole file, of which this is a part
    if hasattr(train, one.sets):
        over = ", by the command" if one.sets in found.overridden else ""
        return f"{words.option(one.sets)} {_shown(getattr(train, one.sets))}{over}"
    said = getattr(found.plan.job, one.sets, None)
    return " ".join(filter(None, [words.option(one.sets), "" if said is None else _shown(said)]))


def checked_document(found: Checked) -> CheckDocument:
    """The plan's own object, and beside it what the files said."""
    return {**plan_document(found.plan), "config": _config(found)}


def _config(found: Checked) -> ConfigDocument:
    return {
        "format": found.understood.format,
        "files": [str(one.path) for one in found.documents],
        "keys": [_key_document(one) for one in found.understood.readings],
        "unset": {name: plain(value) for name, value in found.unset.items()},
        "overridden": list(found.overridden),
        "notes": list(found.understood.notes),
    }


def _key_document(one: Reading) -> KeyDocument:
    return {
        "key": one.key,
        "file": one.file,
        "value": plain(one.value),
        "fate": one.fate,
        "sets": one.sets,
        "why": one.why,
    }


def plain(value: Any) -> Any:  # noqa: ANN401  (a file's value)
    """A value as JSON can hold it: numbers that are none, and what is neither text nor number, as text.

    >>> plain({"a": [float("nan"), 1, None]})
    {'a': ['nan', 1, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
