"""An examination as tables and as a document."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from planner.render.sheet import Cell, Column, Sheet, Tone, printable, row

if TYPE_CHECKING:
    from planner.doctor import Examination, Fact
    from planner.doctor.values import Topic

TITLES: Mapping["Topic", str] = {
    "software": "Software",
    "cards": "Cards",
    "environment": "Environment",
    "machine": "This machine",
    "stored": "What is kept",
}
TONES: dict[str, Tone] = {"ok": "good", "note": "", "warning": "warn", "bad": "bad"}

ABILITIES = {
    "local": "plan --gpu local",
    "gpu": "training on a card of this machine",
    "traced": "plan --evidence traced, plan trace",
    "measure": "plan measure",
    "hub": "models by their Hub id",
    "pictures": "pictures of a trace",
}


def doctor_sheets(found: "Examination") -> list[Sheet]:
    """One table a topic, then what can run."""
    columns = (Column(""), Column("found", wraps=True), Column("state"), Column("what to do", wraps=True))
    sheets = []
    for topic, title in TITLES.items():
        rows = tuple(_row(fact) for fact in found.about(topic))
        if rows:
            sheets.append(Sheet(title, (Column(topic), *columns[1:]), rows))
    return [*sheets, _abilities(found)]


def _row(fact: "Fact") -> tuple[Cell, ...]:
    state = Cell(fact.state, TONES[fact.state])
    return row((Cell(printable(fact.name), "strong"), printable(fact.value), state, printable(fact.advice)))


def _abilities(found: "Examination") -> Sheet:
    rows = tuple(
        row(
            (
                Cell(name, "strong"),
                ABILITIES[name],
                Cell("no" if why else "yes", "warn" if why else "good"),
                printable(why),
            )
        )
        for name, why in found.lacking.items()
    )
    columns = (Column("ability"), Column("what", wraps=True), Column("can run"), Column("why not", wraps=True))
    return Sheet("What can run here", columns, rows)


def doctor_document(found: "Examination") -> dict[str, object]:
    """The same for scripts."""
    return {
        "schema": 1,
        "facts": [fact._asdict() for fact in found.facts],
        "abilities": [{"name": name, "able": not why, "why": why or None} for name, why in found.lacking.items()],
    }
