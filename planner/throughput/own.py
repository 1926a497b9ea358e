"""The user's own measured runs: they correct the published rates and narrow the bounds."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from planner.calibration.conformal import Weighted, median
from planner.calibration.own import ALIKE, Run, Runs
from planner.result import BasisKind, Estimate, StepTime, TimeBasis
from planner.spec import Scenario
from planner.throughput.work import Load

REPEATS = 0.05
"""How far two runs of one scenario may lie apart (stated): clocks and temperatures."""

NEIGHBOURS = 0.10
"""The least that a run of another shape leaves open (stated)."""

DEVICE = 0.15
"""The least that runs of other models leave open (stated)."""

LEAST_S = 1e-6
"""Seconds below which a record tells no step: not even one kernel starts in less."""

Predict = Callable[[Scenario, Estimate], StepTime | None]


class Correction(NamedTuple):
    """What own runs say: measured for each predicted second, how far the next may lie from it, and which runs."""

    kind: BasisKind
    ratio: float
    width: float
    runs: tuple[str, ...]

    def beside(self, half: float) -> "Correction":
        """With ``half`` as what published runs leave open, of which the more own runs there are, the less counts."""
        if self.kind == "scenario":
            return self
        return self._replace(width=max(self.width, half / (len(self.runs) + 1)))


@dataclass(frozen=True)
class OwnTimes:
    """Own runs as seconds. Each is predicted once."""

    runs: Runs
    estimate: Callable[[Scenario], Estimate]
    predict: Predict
    _predicted: dict[tuple[str, str], StepTime | None] = field(default_factory=dict, repr=False, compare=False)
    _known: dict[tuple[Scenario, str], Correction | None] = field(default_factory=dict, repr=False, compare=False)

    def corrected(self, step: StepTime, scenario: Scenario, load: Load | None = None) -> StepTime:
        """The time with own runs in, where there are any that speak about it."""
        if self.runs.silent(scenario):
            return step
        key = (scenario, step.basis.group)
        if key not in self._known:
            self._known[key] = self._correction(*key)
        known = self._known[key]
        if known is None:
            return step
        found = known.beside(step.high / step.seconds - 1)
        if found.kind == "scenario" and load is not None and load.tokens * ALIKE < scenario.train.tokens:
            found = found._replace(kind="neighbours", width=max(found.width, NEIGHBOURS))
        return apply(step, found)

    def _correction(self, scenario: Scenario, group: str) -> Correction | None:
        """By runs of this scenario, else of its model and method, else of its kind of device where the bound agrees.

        Formula:   ratio = median of measured / predicted;  width = max(least, largest distance from it)
        Source:    ours; ``Correction.beside`` adds what published runs leave open
        Valid:     runs of the same stack, GPU architecture and number of cards
        """
        if same := self._ratios(self.runs.of_scenario(scenario), scenario):
            return _around("scenario", same, REPEATS)
        if near := self._ratios(self.runs.of_neighbours(scenario), scenario):
            return _around("neighbours", near, NEIGHBOURS)
        kind = (run for run in self.runs.of_kind(scenario) if run.as_planned)
        far = self._ratios(kind, scenario, group=group)
        return _around("device", far, DEVICE) if far else None

    def _ratios(self, runs: Iterable[Run], scenario: Scenario, group: str = "") -> dict[str, float]:
        """Measured for each predicted second of runs that have both; ``group``: only of runs of that kind."""
        found = {}
        for run in runs:
            seconds = run.seconds or 0.0
            ours = self._of(run, scenario) if seconds > LEAST_S else None
            if ours is not None and group in ("", ours.basis.group):
                found[run.id] = seconds / ours.seconds
        return found

    def _of(self, run: Run, scenario: Scenario) -> StepTime | None:
        """The prediction of a run, on the card as it is known now."""
        gpu = scenario.cluster.gpu
        key = (run.id, gpu.id)
        if key not in self._predicted:
            ran = run.scenario
            if ran.cluster.gpu.id == gpu.id:
                ran = replace(ran, cluster=replace(ran.cluster, gpu=gpu))
            self._predicted[key] = self.predict(ran, self.estimate(ran))
        return self._predicted[key]


def apply(step: StepTime, found: Correction) -> StepTime:
    """A time moved by a correction; what each term takes by itself stays as published runs say."""
    seconds = step.seconds * found.ratio
    return replace(
        step,
        seconds=seconds,
        low=seconds / (1 + found.width),
        high=seconds * (1 + found.width),
        tokens_per_second=step.tokens_per_second / found.ratio,
        basis=TimeBasis(found.kind, len(found.runs), found.runs, step.basis.group),
    )


def _around(kind: BasisKind, ratios: dict[str, float], least: float) -> Correction:
    ratio = median([Weighted(one) for one in ratios.values()])
    width = max(least, *(max(one / ratio, ratio / one) - 1 for one in ratios.values()))
    return Correction(kind, ratio, width, tuple(ratios))
