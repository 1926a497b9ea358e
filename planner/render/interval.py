"""Where the interval of an estimate comes from: each part with its bounds and what it rests on."""

from dataclasses import dataclass

from planner.calibration import rows_for, words_of
from planner.calibration.interval import Beyond, Errors, bounds_of
from planner.render.machine import basis_document
from planner.render.sheet import Cell, Column, Sheet, row
from planner.result import Basis, Estimate
from planner.spec import Scenario
from planner.units import format_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalView:
    """One scenario: the bare estimate, how far it may be off and why, and what that makes of it."""

    scenario: Scenario
    bare: Estimate
    errors: Errors
    beyond: Beyond
    calibrated: Estimate


def interval_sheet(view: IntervalView, notes: tuple[str, ...] = ()) -> Sheet:
    """Parts of the interval from top to bottom, their sum last."""
    columns = (
        Column("part"),
        Column("low", numeric=True),
        Column("likeliest", numeric=True),
        Column("high", numeric=True),
        Column("rests on"),
    )
    allocated, peak = view.bare.peak.allocated_bytes, view.calibrated.peak
    off = [_signed(round(error * allocated)) for error in view.errors[:3]]
    beyond = [_signed(view.beyond.low), _signed(0), _signed(view.beyond.high)]
    total = [format_bytes(count) for count in (peak.low_bytes, peak.required_bytes, peak.high_bytes)]
    rows = (
        row((f"{view.bare.evidence} estimate", "", format_bytes(view.bare.peak.required_bytes), "", "")),
        row(("allocated bytes may differ", *off, _rests(view.errors.basis))),
        row(("beyond them, fragmentation", *beyond, _replays(view))),
        row((Cell("required", "strong"), *(Cell(text, "strong") for text in total), _clipped(view))),
    )
    return Sheet(_title(view.scenario), columns, rows, rules=(len(rows) - 1,), notes=(*_notes(view), *notes))


def _title(scenario: Scenario) -> str:
    train, gpu = scenario.train, scenario.cluster.gpu
    return f"{scenario.model.name}, {train.method}, {train.micro_batch_size} x {train.seq_len} tokens on {gpu.name}"


def _signed(count: int) -> str:
    return f"{'+' if count > 0 else '-' if count < 0 else ''}{format_bytes(abs(count))}"


def _rests(basis: Basis) -> str:
    return {"stated": "stated", "published": f"{basis.n} published"}.get(basis.kind, f"{basis.n} of your runs")


def _replays(view: IntervalView) -> str:
    return f"{view.beyond.n} replays" if view.beyond.n else "its own replay"


def _clipped(view: IntervalView) -> str:
    """Whether own runs of this very scenario bound it further than the parts above do."""
    peak = view.calibrated.peak
    parts = bounds_of(view.bare.peak, view.errors, view.beyond)
    seen = (peak.low_bytes, peak.required_bytes, peak.high_bytes) != parts
    return "what ran here, and did not" if seen else ""


def _notes(view: IntervalView) -> list[str]:
    basis = view.errors.basis
    if basis.kind == "stated":
        return ["A stated width: no group of measurements is like this one and large enough."]
    if basis.kind == "published":
        return [
            f"{basis.n} published numbers of {basis.group}, from {', '.join(basis.sources)}: the bounds hold "
            f"{basis.coverage:.0%} of such. Narrower groups have fewer than {rows_for()}."
        ]
    runs = ", ".join(name[:8] for name in basis.sources[:MOST_RUNS])
    more = f" and {len(basis.sources) - MOST_RUNS} more" if len(basis.sources) > MOST_RUNS else ""
    return [f"Errors {words_of(basis)}: {runs}{more} (plan measurements show ID)."]


MOST_RUNS = 6


def interval_document(view: IntervalView) -> dict[str, object]:
    """The same for scripts; errors are ratios of allocated bytes."""
    peak = view.calibrated.peak
    rests_on = {name: fact for name, fact in basis_document(view.errors.basis).items() if name != "correction_bytes"}
    return {
        "method": view.scenario.train.method,
        "evidence": view.bare.evidence,
        "required_bytes": view.bare.peak.required_bytes,
        "allocated": {**dict(zip(("low", "likeliest", "high"), view.errors[:3], strict=True)), **rests_on},
        "beyond": {"low_bytes": view.beyond.low, "high_bytes": view.beyond.high, "replays": view.beyond.n},
        "calibrated": {
            "low_bytes": peak.low_bytes,
            "required_bytes": peak.required_bytes,
            "high_bytes": peak.high_bytes,
        },
    }
