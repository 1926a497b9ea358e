"""Records of the user's store as runs that calibration understands."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING

from planner._version import __version__
from planner.calibration.own import REPLACES_ALLOCATOR, Find, Query, Run
from planner.calibration.residuals import METRICS, Metric, predicted
from planner.errors import PlannerError
from planner.result import Estimate
from planner.spec import Scenario

if TYPE_CHECKING:
    from planner.records import Record

MOST = 200
"""Newest records that are looked at for one query: older ones of the same kind add little."""

Select = Callable[[Query], Iterable["Record"]]
"""Records that answer a query, newest first."""


def finder(select: Select, closed_form: Callable[[Scenario], Estimate]) -> Find:
    """Runs from records; ``closed_form`` predicts anew, since its formulas may have been mended since."""
    known: dict[str, Run | None] = {}  # a record of the model is one of the device, too

    def run_of(record: "Record") -> Run | None:
        if record.id not in known:
            known[record.id] = _run(record, closed_form)
        return known[record.id]

    def find(query: Query) -> tuple[Run, ...]:
        told = (record for record in islice(select(query), MOST) if _tells(record))
        return tuple(run for record in told if (run := run_of(record)) is not None)

    return find


def _tells(record: "Record") -> bool:
    """Whether a record is of steps that ended in one of the two ways that say something about memory."""
    return record.kind == "steps" and record.outcome in ("done", "out_of_memory")


def _run(record: "Record", closed_form: Callable[[Scenario], Estimate]) -> Run | None:
    """The run of a record, or ``None`` for one that this version does not understand.

    Records come from other machines too: one whose settings make no sense to a formula must not spoil a plan.
    """
    try:
        scenario = record.restore()
        predictions = _kept(record) | dict(_anew(record, scenario, closed_form))
    except (PlannerError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None
    ended = record.outcome == "out_of_memory"
    return Run(
        id=record.id,
        scenario=scenario,
        layers=record.layers,
        measured=MappingProxyType({} if ended else dict(_measured(record))),
        predicted=MappingProxyType(predictions),  # type: ignore[arg-type]  # evidence and metrics by their names
        out_of_memory=ended,
        held_bytes=_held(record),
        lengths=record.lengths,
        allocator=record.environment.allocator,
        seconds=None if ended or record.lengths else record.steady_seconds,
    )


def _kept(record: "Record") -> dict[str, Mapping[str, int]]:
    """Predictions that hold still: those of this version. A tracer that was mended since would say something else."""
    return dict(record.predicted) if record.planner == __version__ else {}


def _held(record: "Record") -> int | None:
    """What the run had of its card: for one that failed no more than others certainly left, if anybody knows that."""
    if record.device.kind != "cuda":
        return None
    total, others = record.device.total_bytes, record.environment.others_bytes
    size = total if record.environment.cap_bytes is None else record.environment.cap_bytes
    if record.outcome == "done":
        return size
    return None if others is None else min(size, total - others)


def _anew(
    record: "Record", scenario: Scenario, closed_form: Callable[[Scenario], Estimate]
) -> Mapping[str, Mapping[str, int]]:
    if record.layers is not None:
        return {}
    found = closed_form(scenario)
    return {"closed-form": {metric: predicted(found, metric) for metric in METRICS}}


def _measured(record: "Record") -> Iterator[tuple[Metric, int]]:
    """What the run says of a plan, which assumes the allocator's defaults, batches of one length, and states."""
    allocator = record.environment.allocator
    if record.first_step_alone or any(name in allocator for name in REPLACES_ALLOCATOR):
        return
    for metric in METRICS[:1] if allocator or record.lengths else METRICS:
        count = getattr(record.peak, f"{metric}_bytes")
        if count:
            yield metric, count
