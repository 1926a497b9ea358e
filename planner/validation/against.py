"""The closed form held against traces of the same cases: ``compare(cases, traced) -> Agreement``.

Nothing is taken on trust from a file but the traces: the closed form answers anew each time. An error of a phase is
``closed form / trace - 1``. An error of an owner is its difference as a share of all bytes of the trace at that
instant, since an owner with few bytes may be wholly wrong and matter to nobody. Owners are compared in the trace's
largest phase.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from planner.closed_form import estimate
from planner.errors import PlannerError
from planner.result import OWNERS, PHASES, Estimate, Phase
from planner.spec import Scenario
from planner.validation.grid import GridCase
from planner.validation.traced import Row, TracedFile

MEDIAN, WORST = 0.01, 0.05
"""What we promise for the peak of every case: half of all within 1 %, none beyond 5 %."""


class Comparison(NamedTuple):
    """One case that both can answer."""

    case: GridCase
    family: str
    ours: Estimate
    traced: Row

    @property
    def phase(self) -> Phase:
        """The trace's largest phase."""
        return max(self.traced.phases, key=lambda name: self.traced.phases[name].total)

    @property
    def peak_error(self) -> float:
        """Relative error of the largest phase, each of its own."""
        return self.ours.peak.allocated_bytes / self.traced.phases[self.phase].total - 1

    def phase_error(self, phase: Phase) -> float:
        """Relative error of one phase."""
        return self.ours.phases[phase].total / self.traced.phases[phase].total - 1

    def owner_error(self, owner: str) -> float:
        """Difference of one owner at the peak, as a share of the peak."""
        ours, real = self.ours.phases[self.phase], self.traced.phases[self.phase]
        place = OWNERS.index(owner)
        return (ours[place] - real[place]) / real.total


@dataclass(frozen=True, slots=True)
class Deviation:
    """Errors of one group of cases: how many, the median of the absolute ones, the one farthest from 0 and its case."""

    name: str
    n: int
    median: float
    worst: float
    case: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the closed form lies from the trace, seen from four sides, and what only one of them answers."""

    versions: tuple[tuple[str, str], ...]
    date: str
    headline: Deviation | None
    by_method: tuple[Deviation, ...]
    by_family: tuple[Deviation, ...]
    by_phase: tuple[Deviation, ...]
    by_owner: tuple[Deviation, ...]
    by_ranks: tuple[Deviation, ...]
    """By the number of cards; empty where every case has one."""
    only_traced: tuple[tuple[str, str], ...]
    """Cases that the closed form refuses, with its words."""
    only_closed: tuple[tuple[str, str], ...]
    """Cases that the trace refuses."""
    neither: tuple[tuple[str, str], ...]
    comparisons: tuple[Comparison, ...]

    @property
    def kept(self) -> bool:
        """Whether the promise about peaks holds."""
        return self.headline is not None and self.headline.median <= MEDIAN and abs(self.headline.worst) <= WORST


def compare(
    cases: Iterable[GridCase], traced: TracedFile, estimator: Callable[[Scenario], Estimate] = estimate
) -> Agreement:
    """Hold the closed form against those of ``cases`` that have been traced."""
    compared: list[Comparison] = []
    refusals: dict[str, list[tuple[str, str]]] = {"ours": [], "theirs": [], "both": []}
    for case in cases:
        row = traced.rows.get(case.id)
        if row is None:
            continue
        try:
            scenario = case.scenario()
            ours = estimator(scenario)
        except PlannerError as error:
            refusals["both" if row.refused else "ours"].append((case.id, str(error)))
            continue
        if row.refused:
            refusals["theirs"].append((case.id, row.refused))
        else:
            compared.append(Comparison(case, scenario.model.model_type, ours, row))
    return _agreement(traced, tuple(compared), refusals)


def _agreement(
    traced: TracedFile, compared: tuple[Comparison, ...], refusals: dict[str, list[tuple[str, str]]]
) -> Agreement:
    peaks = [(one, one.peak_error) for one in compared]
    return Agreement(
        versions=tuple(traced.versions.items()),
        date=traced.date,
        headline=_deviation("all", peaks),
        by_method=_grouped(peaks, lambda one: str(one.case.method)),
        by_family=_grouped(peaks, lambda one: one.family),
        by_phase=_sides(compared, PHASES, lambda one, phase: one.phase_error(phase)),  # type: ignore[arg-type]
        by_owner=_sides(compared, OWNERS, lambda one, owner: one.owner_error(owner)),
        by_ranks=_by_ranks(peaks),
        only_traced=tuple(refusals["ours"]),
        only_closed=tuple(refusals["theirs"]),
        neither=tuple(refusals["both"]),
        comparisons=compared,
    )


def _by_ranks(peaks: list[tuple[Comparison, float]]) -> tuple[Deviation, ...]:
    sizes = sorted({one.case.ranks for one, _ in peaks} - {1})
    found = (_deviation(str(ranks), [pair for pair in peaks if pair[0].case.ranks == ranks]) for ranks in sizes)
    return tuple(one for one in found if one is not None)


def _grouped(errors: Iterable[tuple[Comparison, float]], name: Callable[[Comparison], str]) -> tuple[Deviation, ...]:
    groups: dict[str, list[tuple[Comparison, float]]] = {}
    for one, error in errors:
        groups.setdefault(name(one), []).append((one, error))
    return tuple(found for key in sorted(groups) if (found := _deviation(key, groups[key])) is not None)


def _sides(
    compared: Iterable[Comparison], names: Iterable[str], error: Callable[[Comparison, str], float]
) -> tuple[Deviation, ...]:
    found = tuple(compared)
    sides = (_deviation(name, [(one, error(one, name)) for one in found]) for name in names)
    return tuple(side for side in sides if side is not None)


def _deviation(name: str, errors: list[tuple[Comparison, float]]) -> Deviation | None:
    if not errors:
        return None
    worst, most = max(errors, key=lambda pair: abs(pair[1]))
    return Deviation(name, len(errors), median(abs(error) for _, error in errors), most, worst.case.id)
