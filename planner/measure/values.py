"""What was measured, what was predicted, and one beside the other: frozen values without torch."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from planner.measure.task import Device
from planner.result import PHASES, Memory, Phase
from planner.spec import Scenario

Outcome = Literal["done", "out_of_memory", "timed_out", "killed", "failed"]


class PhasePeak(NamedTuple):
    """The highest point of one phase.

    ``reserved_bytes`` and ``device_bytes`` (what the whole device has in use when the phase ends) are CUDA's.
    """

    phase: Phase
    allocated_bytes: int
    reserved_bytes: int | None = None
    device_bytes: int | None = None


class StepPeaks(NamedTuple):
    """One optimizer step; ``number`` counts from 0. ``seconds`` end when the device has caught up."""

    number: int
    seconds: float
    phases: tuple[PhasePeak, ...]


class Place(NamedTuple):
    """Where a run was: a step (0 while it loads) and its phase."""

    step: int
    phase: Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a child process reported before it ended, and how it ended.

    ``load`` is what stands when the model is there: how random weights get there is not how a trainer loads its own.

    ``owners``: bytes of what stands between steps, and of all gradients. When it did not end well, ``detail`` says why
    in one line, and ``log`` is the last of what the child wrote to stderr.
    """

    scenario: Scenario
    layers: int | None
    outcome: Outcome
    device: Device | None = None
    versions: Mapping[str, str]
    owners: Mapping[str, int]
    load: PhasePeak | None = None
    steps: tuple[StepPeaks, ...] = ()
    died_in: Place | None = None
    detail: str = ""
    log: str = ""

    @property
    def peak(self) -> PhasePeak | None:
        """The largest phase of all steps: the steady one counts, unless the first is larger."""
        phases = [phase for step in self.steps for phase in step.phases]
        return max(phases, key=lambda phase: phase.allocated_bytes, default=None)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Live bytes by owner at the peak of every phase: of the first step, in which states appear, and of a later one."""

    evidence: Literal["traced"]
    load: Memory
    first: Mapping[Phase, Memory]
    steady: Mapping[Phase, Memory]

    @property
    def peak_bytes(self) -> int:
        """The largest phase."""
        return max(memory.total for memory in (self.load, *self.first.values(), *self.steady.values()))


class Comparison(NamedTuple):
    """One phase of one step, predicted and measured; either may be missing."""

    step: Literal["", "first", "steady"]
    phase: Phase
    predicted: Memory | None
    measured: PhasePeak | None

    @property
    def difference(self) -> float | None:
        """How far the prediction is above (or below) what was measured, as a ratio."""
        if self.predicted is None or self.measured is None or not self.measured.allocated_bytes:
            return None
        return self.predicted.total / self.measured.allocated_bytes - 1


def compare(prediction: Prediction, measurement: Measurement) -> tuple[Comparison, ...]:
    """Load, then the phases of the first step, then those of the last one if there was another."""
    found = [Comparison("", "load", prediction.load, measurement.load)]
    steps = measurement.steps
    found.extend(_step("first", prediction.first, steps[0].phases if steps else ()))
    if len(steps) > 1:
        found.extend(_step("steady", prediction.steady, steps[-1].phases))
    return tuple(found)


def _step(
    name: Literal["first", "steady"], predicted: Mapping[Phase, Memory], measured: Iterable[PhasePeak]
) -> Iterator[Comparison]:
    by_phase = {peak.phase: peak for peak in measured}
    for phase in PHASES[1:]:
        if phase in predicted or phase in by_phase:
            yield Comparison(name, phase, predicted.get(phase), by_phase.get(phase))


def peak_comparison(found: Iterable[Comparison]) -> Comparison | None:
    """The largest measured phase with the largest predicted one beside it, whichever phases they are."""
    rows = [row for row in found if row.measured is not None and row.predicted is not None and row.step]
    if not rows:
        return None
    measured = max((row.measured for row in rows if row.measured), key=lambda peak: peak.allocated_bytes)
    predicted = max((row.predicted for row in rows if row.predicted), key=lambda memory: memory.total)
    return Comparison("", measured.phase, predicted, measured)
