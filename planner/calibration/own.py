"""The user's own measured runs, as far as they speak about a scenario: of it, of its model, of its kind of device."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median

from planner.calibration.residuals import Metric, Residual, architecture, kind_of, spread
from planner.result import BasisKind, Evidence
from planner.spec import Scenario, TrainSpec

REPEATS = 0.01
"""How far two runs of one scenario may lie apart (stated): allocations repeat, the order of a few of them does not."""

NEIGHBOURS = 0.02
"""The least that a run of another shape leaves open (stated)."""

SHAPE = ("seq_len", "micro_batch_size", "grad_accumulation")
"""Settings that change between neighbours as a matter of course; others count as long as method and stack agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A measured run: what it was, what was predicted and measured (bytes), and on which card it ran or failed.

    ``layers``: only the first so many were run. ``held_bytes``: total memory of the device, or the cap that stood in for
    a smaller one. ``id`` is that of its record.
    """

    id: str
    scenario: Scenario
    layers: int | None
    measured: Mapping[Metric, int]
    predicted: Mapping[Evidence, Mapping[Metric, int]]
    out_of_memory: bool = False
    held_bytes: int | None = None

    def error(self, evidence: Evidence, metric: Metric) -> float | None:
        """Signed relative error, measured / predicted - 1, where both are there."""
        real, ours = self.measured.get(metric), self.predicted.get(evidence, {}).get(metric)
        return None if not real or not ours else real / ours - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What own runs say: the median error, and how far below and above the prediction the next run may lie."""

    kind: BasisKind
    runs: tuple[Run, ...]
    low: float
    shift: float
    high: float
    coverage: float | None = None


@dataclass(frozen=True, slots=True)
class Runs:
    """All runs that may matter, by how near they are; found once for each scenario."""

    runs: tuple[Run, ...] = ()
    _found: dict[Scenario, tuple[tuple[Run, ...], ...]] = field(default_factory=dict, repr=False, compare=False)

    def near(self, scenario: Scenario) -> tuple[tuple[Run, ...], ...]:
        """Runs of this very scenario, of its model with other settings, and of its kind with other models."""
        found = self._found.get(scenario)
        if found is None:
            comparable = [run for run in self.runs if _comparable(run.scenario, scenario)]
            same = tuple(run for run in comparable if run.layers is None and _same(run.scenario, scenario))
            neighbours = tuple(run for run in comparable if run not in same and _neighbours(run.scenario, scenario))
            others = tuple(run for run in comparable if run not in same and run not in neighbours)
            found = self._found[scenario] = (same, neighbours, others)
        return found

    def limits(self, scenario: Scenario) -> tuple[int | None, int | None]:
        """The largest card on which this very scenario ran out of memory, and the smallest on which it completed."""
        same, _, _ = self.near(scenario)
        failed = [run.held_bytes for run in same if run.out_of_memory and run.held_bytes]
        ran = [run.held_bytes for run in same if not run.out_of_memory and run.held_bytes]
        return max(failed, default=None), min(ran, default=None)


def _comparable(run: Scenario, scenario: Scenario) -> bool:
    """Same software and kind of device: errors of one say something about the other."""
    cards = run.cluster.world_size == scenario.cluster.world_size
    return (
        cards
        and run.stack.name == scenario.stack.name
        and architecture(run.cluster.gpu) == architecture(scenario.cluster.gpu)
    )


def _same(run: Scenario, scenario: Scenario) -> bool:
    return run.train == scenario.train and run.model == scenario.model


def _neighbours(run: Scenario, scenario: Scenario) -> bool:
    return run.model == scenario.model and run.train.method == scenario.train.method


def same_but_shape(one: TrainSpec, other: TrainSpec) -> bool:
    """Whether two trainings differ in batch and length at most."""
    return replace(one, **{name: getattr(other, name) for name in SHAPE}) == other


def own_spread(runs: Runs, scenario: Scenario, evidence: Evidence, metric: Metric, stated: float) -> Own | None:
    """What the nearest runs that were made say; ``stated`` is half the width that holds without them.

    Formula:   of this scenario:    shift = median error;  width = max(1 %, largest distance from it)
               of its model:        shift = median error;  width = max(2 %, largest distance, stated / (n + 1))
               of its kind, n >= 19: split conformal prediction around the median error
    Source:    ours; the first two are judged by docs/validation.md, where published runs stand in for own ones
    Valid:     runs of the same stack, GPU architecture and number of cards
    """
    same, neighbours, others = runs.near(scenario)
    for kind, near in (("scenario", same), ("neighbours", _nearest(neighbours, scenario))):
        measured = tuple(run for run in near if run.error(evidence, metric) is not None)
        if measured:
            least = REPEATS if kind == "scenario" else max(NEIGHBOURS, stated / (len(measured) + 1))
            return _around(kind, measured, _errors(measured, evidence, metric), least)  # type: ignore[arg-type]
    found = spread(
        Residual(kind_of(run.scenario, evidence, metric), run.scenario.model.name, error)
        for run in (*neighbours, *others)
        if (error := run.error(evidence, metric)) is not None
    )
    if found is None:
        return None
    return Own(kind="device", runs=others, low=found.low, shift=found.median, high=found.high, coverage=found.coverage)


def _nearest(neighbours: tuple[Run, ...], scenario: Scenario) -> tuple[Run, ...]:
    """Those that differ in shape alone, where there are any."""
    shape = tuple(run for run in neighbours if same_but_shape(run.scenario.train, scenario.train))
    return shape or neighbours


def _errors(runs: Iterable[Run], evidence: Evidence, metric: Metric) -> list[float]:
    return [error for run in runs if (error := run.error(evidence, metric)) is not None]


def _around(kind: BasisKind, runs: tuple[Run, ...], errors: list[float], least: float) -> Own:
    shift = median(errors)
    width = max(least, *(abs(error - shift) for error in errors))
    return Own(kind=kind, runs=runs, low=shift - width, shift=shift, high=shift + width)
