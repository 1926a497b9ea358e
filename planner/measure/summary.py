"""What a matrix says of the predictions: errors of each kind of evidence, by metric."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from planner.measure.series import Row, Series
from planner.records import Record

METRICS = ("allocated", "reserved", "device")
EVIDENCE = ("closed-form", "traced")


@dataclass(frozen=True, slots=True)
class Deviation:
    """Relative errors of one kind of evidence in one metric: how many, median of the absolute ones, and the worst."""

    evidence: str
    metric: str
    n: int
    median: float
    worst: float
    case: str


def deviations(series: Series) -> tuple[Deviation, ...]:
    """Errors of all finished runs that were predicted and measured."""
    errors: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for one in series.rows:
        for record in latest(one):
            for evidence, metric, error in errors_of(record):
                errors.setdefault((evidence, metric), []).append((error, label_of(one, record)))
    found = []
    for (evidence, metric), values in sorted(errors.items()):
        worst, case = max(values, key=lambda pair: abs(pair[0]))
        found.append(Deviation(evidence, metric, len(values), median(abs(error) for error, _ in values), worst, case))
    return tuple(found)


def errors_of(record: Record) -> Iterator[tuple[str, str, float]]:
    """Evidence, metric and relative error of everything that one run of several steps was predicted to take."""
    if record.first_step_alone:
        return
    for evidence, metric in ((evidence, metric) for evidence in EVIDENCE for metric in METRICS):
        predicted, measured = predicted_in(record, evidence, metric), getattr(record.peak, f"{metric}_bytes")
        if record.kind == "steps" and record.outcome == "done" and predicted is not None and measured:
            yield evidence, metric, predicted / measured - 1


def predicted_in(record: Record, evidence: str, metric: str) -> int | None:
    """One predicted number of a run."""
    found: Mapping[str, int] = record.predicted.get(evidence, {})
    return found.get(metric)


def latest(one: Row) -> tuple[Record, ...]:
    """The last record of each depth: earlier ones of the same were tried again."""
    return tuple({record.layers: record for record in one.records}.values())


def label_of(one: Row, record: Record) -> str:
    """The case on one line, with the depth that ran."""
    label = one.planned.case.label
    return label.replace("layers=auto", f"layers={record.layers}") if record.layers else label
