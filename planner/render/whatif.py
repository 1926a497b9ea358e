"""Single changes as a table: what each gains and costs, best first; and for scripts."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from planner.render import words
from planner.render.explore_document import EffectDocument, WhatIfDocument
from planner.render.lines import EMPTY, INDENT, Line, Screen, indented, narrowed, pairs, paragraph, table
from planner.render.machine import candidate_document, reason_document, settings_document, way_document
from planner.render.sheet import Cell, Column, Sheet, Tone, row
from planner.render.time_text import brief
from planner.result import Candidate
from planner.units import GIB

if TYPE_CHECKING:
    from planner.recommend.whatif import Effect, WhatIf

SAME = 0.005
"""A share of the pace that two decimals of a percentage would show as nothing much."""
CLEAR = 0.05
"""A share of the pace from which it is coloured: times are known to no less."""
CHANGED = 2**20
"""Bytes under which a difference of the requirement is none."""


def what_if_sheet(found: "WhatIf") -> Sheet:
    """The settings at hand in the first row, below them every change that makes a difference."""
    effects = [one for one in found.effects if matters(one)]
    columns = (
        Column("change", wraps=True),
        Column("verdict"),
        Column("GiB", numeric=True),
        Column("±", numeric=True),
        Column("s a step", numeric=True, optional=True),
        Column("pace", numeric=True),
        Column("US$" if found.start.cost else "US$/M", numeric=True, optional=True),
        Column("tokens/s", numeric=True, optional=True),
        Column("see", optional=True),
    )
    rows = (_start(found), *(_row(one, _digits(found)) for one in effects))
    return Sheet(title(found), columns, rows, rules=_rules(effects), notes=(*_aside(found), *found.notes))


def what_if_lines(found: "WhatIf", screen: Screen) -> list[Line]:
    """The table, what the rules on quality say of its rows, and what is left out."""
    sheet, room = what_if_sheet(found), screen.width - INDENT
    reasons = [((Cell(code, "warn"),), Cell(text)) for code, text in quality(found)]
    notes = [line for note in sheet.notes for line in paragraph(note, room, "faint")]
    return [
        *paragraph(sheet.title, screen.width, "strong"),
        *indented(table(narrowed(sheet, room), room)),
        *(indented([EMPTY, *pairs(reasons, room)]) if reasons else []),
        *(indented([EMPTY, *notes]) if notes else []),
    ]


def what_if_markdown(found: "WhatIf") -> str:
    """The same as Markdown."""
    from planner.render.markdown import bullets, escape, sheet_markdown  # noqa: PLC0415  (only who asks for it)

    said = [f"**{escape(code)}** {escape(text)}" for code, text in quality(found)]
    return sheet_markdown(what_if_sheet(found)) + (f"\n{bullets(said)}\n" if said else "")


def title(found: "WhatIf") -> str:
    """What is changed."""
    cluster = found.start.scenario.cluster
    return (
        f"What if: {found.start.method} of {found.ask.model.name} on {words.cards(cluster)}, "
        f"{words.usable(cluster)} GiB usable, {found.ask.request.stack}"
    )


def matters(one: "Effect") -> bool:
    """Whether a change is felt: in the verdict, the requirement, the pace, or in what the rules on quality say."""
    paced = one.pace_ratio is not None and abs(one.pace_ratio - 1) >= SAME
    return bool(one.turned or one.moves or paced or one.reasons or abs(one.required_bytes) >= CHANGED)


def quality(found: "WhatIf") -> tuple[tuple[str, str], ...]:
    """What the rules say of the changes that are shown, by code: each sentence once, behind what it is said of."""
    said: dict[tuple[str, str], list[str]] = {}
    for one in filter(matters, found.effects):
        for reason in one.reasons:
            said.setdefault((reason.code, reason.text), []).append(change(one))
    return tuple((code, f"{'; '.join(changes)}: {text}") for (code, text), changes in sorted(said.items()))


def change(one: "Effect") -> str:
    """A change in words: settings, and hardware where it is other."""
    settings = words.settings(one.way.settings)
    hardware = f"{one.way.gpus} × {one.way.gpu}" if one.moves else ""
    return ", ".join(part for part in (hardware, settings) if part)


def _start(found: "WhatIf") -> tuple[Cell, ...]:
    start = found.start
    needed = words.gib(start.estimate.peak.required_bytes)
    return row(
        (
            Cell("as it is", "strong"),
            words.verdict(start.verdict),
            needed,
            "",
            _seconds(start),
            "",
            "–" if found.usd is None else f"{found.usd:,.{_digits(found)}f}",
            _tokens(start),
            "",
        )
    )


def _row(one: "Effect", digits: int) -> tuple[Cell, ...]:
    found = one.way.candidate
    verdict = words.verdict(found.verdict)
    return row(
        (
            change(one),
            verdict if one.turned else Cell(verdict.text),
            words.gib(found.estimate.peak.required_bytes),
            _bytes(one.required_bytes),
            _seconds(found),
            _share(one.pace_ratio),
            _more(one.usd, digits),
            _tokens(found),
            Cell(" ".join(reason.code for reason in one.reasons), "warn"),
        )
    )


def _seconds(one: Candidate) -> str:
    return "–" if one.step is None else brief(one.step.seconds)


def _tokens(one: Candidate) -> str:
    return "–" if one.step is None else f"{one.step.tokens_per_second:,.0f}"


def _bytes(count: int) -> Cell:
    """GiB more or less, to a tenth."""
    if abs(count) < CHANGED:
        return Cell("")
    return Cell(f"{count / GIB:+,.1f}" if abs(count) >= GIB / 20 else f"{'-' if count < 0 else '+'}<0.1")


def _share(ratio: float | None) -> Cell:
    """By how much the pace is higher or lower.

    >>> _share(1.25).text, _share(0.8).text, _share(1.0).text, _share(None).text
    ('+25%', '-20%', '', '–')
    """
    if ratio is None:
        return Cell("–")
    if abs(ratio - 1) < SAME:
        return Cell("")
    tone: Tone = "" if abs(ratio - 1) < CLEAR else "good" if ratio > 1 else "warn"
    return Cell(f"{ratio - 1:+.0%}", tone)


def _more(usd: float | None, digits: int) -> str:
    """Money more or less.

    >>> _more(0.125, 2), _more(-0.0004, 3), _more(None, 2)
    ('+0.12', '', '–')
    """
    if usd is None:
        return "–"
    return f"{usd:+,.{digits}f}" if abs(round(usd, digits)) > 0 else ""


def _digits(found: "WhatIf") -> int:
    """Cents of a run, tenths of them of a million tokens."""
    return 3 if found.start.cost is None else 2


def _rules(effects: Sequence["Effect"]) -> tuple[int, ...]:
    """Lines below the settings at hand and between better, equal and worse verdicts."""
    turned = [0, *((one.turned > 0) - (one.turned < 0) for one in effects)]
    found = [place for place in range(1, len(turned)) if place == 1 or turned[place] != turned[place - 1]]
    return tuple(found)


def _aside(found: "WhatIf") -> Iterator[str]:
    yield f"pace: tokens per second; {_basis(found.start)}"
    same = [change(one) for one in found.effects if not matters(one)]
    if same:
        yield f"no difference: {'; '.join(same)}"
    if found.refused:
        count = len(found.refused)
        yield f"{count} other change{'s' if count > 1 else ''} cannot be made here: --format json says why"


def _basis(start: Candidate) -> str:
    if start.cost is not None:
        return f"US$: of the whole run, {start.cost.steps:,} steps as it is"
    return "US$/M: of a million tokens at the typical price"


def what_if_document(found: "WhatIf") -> WhatIfDocument:
    """The same for scripts: every change, and those that are refused with the reason."""
    return {
        "schema": 1,
        "model": found.ask.model.name,
        "start": candidate_document(found.start),
        "changes": [_effect_document(one) for one in found.effects],
        "refused": [
            {
                "settings": settings_document(one.settings),
                "method": one.method,
                "gpu": one.gpu,
                "gpus": one.gpus,
                "reason": one.reason,
            }
            for one in found.refused
        ],
        "notes": list(found.notes),
    }


def _effect_document(one: "Effect") -> EffectDocument:
    """A way with its differences."""
    return {
        **way_document(one.way),
        "difference": {
            "verdict": one.turned,
            "required_bytes": one.required_bytes,
            "seconds": one.seconds,
            "pace_ratio": one.pace_ratio,
            "usd": one.usd,
        },
        "reasons": [reason_document(reason) for reason in one.reasons],
        "settled": list(one.settled),
    }
