"""Published times against ours, as tables and as a document."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from planner.render.sheet import Cell, Column, Sheet, row

if TYPE_CHECKING:
    from planner.validation.time_record import Held
    from planner.validation.timing import Score


def timed_sheets(scores: Iterable["Score"], held_out: Iterable["Held"], left: Iterable[tuple[str, int]]) -> list[Sheet]:
    """Errors by source, from all runs and from a fit without the source; then what is left out."""
    without = {one.score.name: one for one in held_out}
    names = ("runs", "bias", "median", "p90", "unseen", "p90", "held")
    columns = (Column("source"), *(Column(name, numeric=True) for name in names))
    rows = tuple(_row(score, without[score.name]) for score in scores)
    notes = (
        "unseen: median, and p90, by constants fitted to the other sources; held: by the bounds of its kind of run",
    )
    errors = Sheet("Seconds of a step against published ones", columns, rows, rules=(len(rows) - 1,), notes=notes)
    why = tuple(row((text, str(count))) for text, count in left)
    return [errors, Sheet("Rows with a time that are left out", (Column("why", wraps=True), _count()), why)]


def _count() -> Column:
    return Column("rows", numeric=True)


def _row(score: "Score", held: "Held") -> tuple[Cell, ...]:
    errors = (f"{value:.1%}" for value in (score.median, score.p90, held.score.median, held.score.p90))
    share = f"{held.held / score.n:.0%}"
    return row((Cell(score.name, "strong"), str(score.n), f"{score.bias:+.1%}", *errors, share))


def timed_document(
    scores: Iterable["Score"], held_out: Iterable["Held"], left: Iterable[tuple[str, int]]
) -> dict[str, object]:
    """The same for scripts; errors are ratios."""
    return {
        "schema": 1,
        "sources": [score._asdict() for score in scores],
        "held_out": [{**one.score._asdict(), "held": one.held} for one in held_out],
        "left_out": [{"why": why, "rows": count} for why, count in left],
    }
