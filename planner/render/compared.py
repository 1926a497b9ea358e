"""The three methods side by side: numbers, words, and the textbook's claims."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

from planner.render import words
from planner.render.machine import candidate_document, way_document
from planner.render.sheet import Cell, Column, Sheet, Tone, row
from planner.result import Way

if TYPE_CHECKING:
    from planner.recommend.claims import Claim
    from planner.recommend.compare import Comparison, MethodView
    from planner.throughput.ratios import Range

RULINGS: dict[str, Tone] = {"confirmed": "good", "corrected": "warn", "not for this model": "bad"}


def compared_sheets(comparison: "Comparison") -> list[Sheet]:
    """The whole comparison as tables."""
    return [_numbers(comparison), *(_words(view) for view in comparison.methods), _claims(comparison)]


def _numbers(comparison: "Comparison") -> Sheet:
    views = comparison.methods
    columns = (Column("per card"), *(Column(view.method, numeric=True) for view in views))
    rows = (
        _row("trained parameters", (f"{view.trained_ratio:.3%}" for view in views)),
        _row("weights, GiB", (words.gib(view.weight_bytes) for view in views)),
        _row("weights, of LoRA's", (f"{view.weight_ratio:.2f}" for view in views)),
        _row("gradients, GiB", (words.gib(view.gradient_bytes) for view in views)),
        _row("optimizer states, GiB", (words.gib(view.optimizer_bytes) for view in views)),
        _row("needed, GiB", (words.gib(view.candidate.estimate.peak.required_bytes) for view in views)),
        _row("verdict here", (words.verdict(view.candidate.verdict) for view in views)),
        _row("step, of LoRA's", (_range(view.step_ratio) for view in views)),
        _row("smallest single card", (_cards(view.single_card) for view in views)),
        _row("of these cards", (_cards(view.cluster) for view in views)),
    )
    title = f"{comparison.model.name} on {words.cards(comparison.cluster)}"
    return Sheet(title, columns, rows, notes=comparison.notes)


def _row(name: str, cells: Iterable[str | Cell]) -> tuple[Cell, ...]:
    return row((name, *cells))


def _range(ratio: "Range | None") -> str:
    if ratio is None:
        return "unknown"
    return "–".join(dict.fromkeys(f"{bound:.2f}" for bound in ratio))


def _cards(way: Way | None) -> str:
    return "none" if way is None else f"{way.gpus} × {way.gpu}" if way.gpus > 1 else way.gpu


def _words(view: "MethodView") -> Sheet:
    columns = (Column(view.method), Column("", wraps=True))
    return Sheet("", columns, tuple(row((name, text)) for name, text in asdict(view.prose).items()))


def _claims(comparison: "Comparison") -> Sheet:
    columns = (Column("the textbook", wraps=True), Column("for this model"), Column("computed", wraps=True))
    return Sheet("", columns, tuple(_claim(claim) for claim in comparison.claims))


def _claim(claim: "Claim") -> tuple[Cell, ...]:
    return row((claim.claim, Cell(claim.ruling, RULINGS[claim.ruling]), claim.text))


def compared_document(comparison: "Comparison") -> dict[str, object]:
    """The same for scripts."""
    return {
        "schema": 1,
        "model": comparison.model.name,
        "gpu": comparison.cluster.gpu.id,
        "gpus": comparison.cluster.world_size,
        "methods": [_view_document(view) for view in comparison.methods],
        "claims": [asdict(claim) for claim in comparison.claims],
        "notes": list(comparison.notes),
    }


def _view_document(view: "MethodView") -> dict[str, object]:
    numbers = ("trained_ratio", "weight_bytes", "weight_ratio", "optimizer_bytes", "gradient_bytes")
    return {
        "method": view.method,
        **asdict(view.prose),
        **{name: getattr(view, name) for name in numbers},
        "step_ratio": None if view.step_ratio is None else view.step_ratio._asdict(),
        "candidate": candidate_document(view.candidate),
        "single_card": None if view.single_card is None else way_document(view.single_card),
        "cluster": None if view.cluster is None else way_document(view.cluster),
    }
