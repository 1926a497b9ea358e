"""The closed form beside the trace, as neutral tables and as a document."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from planner.render.sheet import Cell, Column, Sheet, row

if TYPE_CHECKING:
    from planner.validation.against import Agreement, Deviation


def agreement_sheets(agreement: "Agreement") -> list[Sheet]:
    """Errors of the peak by method, number of GPUs and family, of every phase, of every owner; then refusals."""
    head = [] if agreement.headline is None else [agreement.headline]
    sheets = [
        _sheet("Peak: closed form against trace", "method", [*head, *agreement.by_method], rules=(1,) if head else ()),
        _sheet("Peak by family", "family", agreement.by_family),
        _sheet("Each phase", "phase", agreement.by_phase),
        _sheet("Owners at the peak", "owner", agreement.by_owner, notes=("share of the peak's bytes",)),
    ]
    if agreement.by_ranks:
        sheets.insert(1, _sheet("Peak by number of GPUs", "GPUs", agreement.by_ranks))
    lists = (
        ("Refused by the closed form, traced", agreement.only_traced),
        ("Refused by the trace, answered by the closed form", agreement.only_closed),
        ("Refused by both", agreement.neither),
    )
    return sheets + [_refusals(title, found) for title, found in lists if found]


def _sheet(
    title: str, side: str, found: Sequence["Deviation"], *, rules: tuple[int, ...] = (), notes: tuple[str, ...] = ()
) -> Sheet:
    columns = (
        Column(side),
        Column("n", numeric=True),
        Column("median", numeric=True),
        Column("worst", numeric=True),
        Column("worst case", optional=True, wraps=True),
    )
    rows = tuple(
        row((Cell(one.name, "strong"), str(one.n), f"{one.median:.2%}", f"{one.worst:+.2%}", one.case)) for one in found
    )
    return Sheet(title, columns, rows, rules=rules, notes=notes)


def _refusals(title: str, found: Iterable[tuple[str, str]]) -> Sheet:
    columns = (Column("case", wraps=True), Column("why", wraps=True))
    return Sheet(title, columns, tuple(row((Cell(name, "strong"), why)) for name, why in found))


def agreement_document(agreement: "Agreement") -> dict[str, object]:
    """The same for scripts; errors are ratios."""
    return {
        "schema": 1,
        "versions": dict(agreement.versions),
        "date": agreement.date,
        "headline": None if agreement.headline is None else _deviation(agreement.headline),
        "by_method": [_deviation(one) for one in agreement.by_method],
        "by_family": [_deviation(one) for one in agreement.by_family],
        "by_phase": [_deviation(one) for one in agreement.by_phase],
        "by_owner": [_deviation(one) for one in agreement.by_owner],
        "by_gpus": [_deviation(one) for one in agreement.by_ranks],
        "only_traced": [{"id": name, "why": why} for name, why in agreement.only_traced],
        "only_closed_form": [{"id": name, "why": why} for name, why in agreement.only_closed],
        "neither": [{"id": name, "why": why} for name, why in agreement.neither],
        "cases": [{"id": one.case.id, "error": one.peak_error} for one in agreement.comparisons],
    }


def _deviation(one: "Deviation") -> dict[str, object]:
    return {"name": one.name, "n": one.n, "median_error": one.median, "worst_error": one.worst, "worst_case": one.case}
