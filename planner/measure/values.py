"""What was measured, what was predicted, and one beside the other: frozen values without torch."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from types import MappingProxyType
from typing import Literal, NamedTuple

from planner.measure.task import Device
from planner.result import ALL_PHASES, Memory, Phase
from planner.spec import Scenario

Outcome = Literal["done", "out_of_memory", "timed_out", "killed", "failed"]
Metric = Literal["allocated", "reserved", "device"]
METRICS: tuple[Metric, ...] = ("allocated", "reserved", "device")


Step = Literal["", "first", "steady"]
"""Which step a phase belongs to: none (it is ``load``), the first, or those after it."""


class PhasePeak(NamedTuple):
    """The highest point of one phase, in the three ways of counting.

    ``reserved_bytes`` (what the caching allocator holds) and ``device_bytes`` (what the device has in use, less what
    others had before) are CUDA's.
    """

    phase: Phase
    allocated_bytes: int
    reserved_bytes: int | None = None
    device_bytes: int | None = None

    def of(self, metric: Metric) -> int | None:
        """Bytes in one way of counting."""
        return {"allocated": self.allocated_bytes, "reserved": self.reserved_bytes, "device": self.device_bytes}[metric]


class StepPeaks(NamedTuple):
    """One optimizer step; ``number`` counts from 0. ``seconds`` end when the device has caught up.

    ``tokens`` are those of all its micro-batches, padding included; 0 where nobody counted.
    """

    number: int
    seconds: float
    phases: tuple[PhasePeak, ...]
    tokens: int = 0


class Place(NamedTuple):
    """Where a run was: a step (0 while it loads) and its phase."""

    step: int
    phase: Phase


class Environment(NamedTuple):
    """What else a number depends on. ``alloc_conf``: PYTORCH_ALLOC_CONF, or its older name. ``threads``: torch's."""

    platform: str
    python: str
    threads: int
    alloc_conf: str = ""
    driver: str = ""
    cuda: str = ""


class Room(NamedTuple):
    """What a CUDA device had before anything was allocated (bytes).

    ``others_bytes``: in use before this process had a context, ``None`` where the driver does not say it.
    ``context_bytes``: taken by the context; with what others use where that is not known apart.
    """

    total_bytes: int
    free_bytes: int
    context_bytes: int
    others_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a child process reported before it ended, and how it ended.

    ``load`` is what stands when the model is there: how random weights get there is not how a trainer loads its own.

    ``owners``: bytes of what stands between steps, and of all gradients. When it did not end well, ``detail`` says why
    in one line, and ``log`` is the last of what the child wrote to stderr. ``host_bytes``: the most that the child had
    resident in main memory. ``warmup``: how many steps the median leaves out. ``snapshot``: the file of the memory
    history, or ``snapshot_error`` why there is none though it was asked for.

    Of several ranks, ``ranks`` has what each of them reported, in order, and the whole is the one of ``rank``: the
    fullest, or the one that ended the run.
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
    warmup: int = 1
    lengths: tuple[int, ...] = ()
    cap_bytes: int | None = None
    environment: Environment | None = None
    room: Room | None = None
    host_bytes: int | None = None
    snapshot: str | None = None
    snapshot_error: str = ""
    rank: int | None = None
    ranks: tuple["Measurement", ...] = ()

    @property
    def steady(self) -> tuple[StepPeaks, ...]:
        """Steps after the warm-up."""
        return self.steps[self.warmup :]

    @property
    def seconds(self) -> float | None:
        """Median of the steady steps."""
        return median(step.seconds for step in self.steady) if self.steady else None

    @property
    def tokens_per_second(self) -> float | None:
        """Median of the steady steps, padding included."""
        rates = [step.tokens / step.seconds for step in self.steady if step.tokens and step.seconds]
        return median(rates) if rates else None

    @property
    def peak(self) -> PhasePeak | None:
        """The largest phase of all steps: the steady one counts, unless the first is larger."""
        phases = [phase for step in self.steps for phase in step.phases]
        return max(phases, key=lambda phase: phase.allocated_bytes, default=None)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Live bytes by owner at the peak of every phase: of the first step, in which states appear, and of a later one.

    On CUDA they are as handed out, and the ``reserved`` of each phase are there too (``"load"`` under ``"load"``);
    ``context_bytes`` are the card's, ``required_bytes`` the least that a card must have. ``later``: every step after
    the first, where lengths differ; ``steady`` is the highest of them then.
    """

    evidence: Literal["traced"]
    load: Memory
    first: Mapping[Phase, Memory]
    steady: Mapping[Phase, Memory]
    later: tuple[Mapping[Phase, Memory], ...] = ()
    reserved: Mapping[str, Mapping[Phase, int]] = field(default_factory=lambda: MappingProxyType({}))
    context_bytes: int | None = None
    required_bytes: int | None = None

    @property
    def peak_bytes(self) -> int:
        """The largest phase."""
        return max(memory.total for memory in (self.load, *self.first.values(), *self.steady.values()))

    @property
    def reserved_bytes(self) -> int | None:
        """The largest of all phases; ``None`` where no allocator reserves."""
        return max((count for step in self.reserved.values() for count in step.values()), default=None)

    def peaks(self, step: Step, taken: int | None = None) -> tuple[PhasePeak, ...]:
        """The phases of a step in order; of as many later ones as were ``taken``, where lengths differ."""
        owners: Mapping[str, Mapping[Phase, Memory]]
        owners = {"": {"load": self.load}, "first": self.first, "steady": self._steady(taken)}
        reserved = self.reserved.get(step or "load", {})
        return tuple(
            self._peak(phase, owners[step][phase], reserved.get(phase)) for phase in ALL_PHASES if phase in owners[step]
        )

    def _steady(self, taken: int | None) -> Mapping[Phase, Memory]:
        if not self.later or taken is None:
            return self.steady
        return highest(phase for step in self.later[:taken] for phase in step.items())

    def _peak(self, phase: Phase, memory: Memory, reserved: int | None) -> PhasePeak:
        known = reserved is not None and self.context_bytes is not None
        return PhasePeak(phase, memory.total, reserved, (reserved or 0) + (self.context_bytes or 0) if known else None)


def highest(found: Iterable[tuple[Phase, Memory]]) -> dict[Phase, Memory]:
    """The largest memory of each phase, in order of appearance.

    >>> highest([("loss", Memory(3)), ("loss", Memory(4)), ("loss", Memory(1))])["loss"].total
    4
    """
    result: dict[Phase, Memory] = {}
    for phase, memory in found:
        result[phase] = max(memory, result.get(phase, memory), key=lambda one: one.total)
    return result


def merged(peaks: Iterable[PhasePeak]) -> list[PhasePeak]:
    """One entry for each phase, in order of first appearance: the highest of each way of counting.

    >>> merged([PhasePeak("forward", 3), PhasePeak("backward", 4), PhasePeak("forward", 5)])[0].allocated_bytes
    5
    """
    found: dict[str, PhasePeak] = {}
    for peak in peaks:
        before = found.get(peak.phase, peak)
        found[peak.phase] = PhasePeak(
            peak.phase,
            max(before.allocated_bytes, peak.allocated_bytes),
            _larger(before.reserved_bytes, peak.reserved_bytes),
            _larger(before.device_bytes, peak.device_bytes),
        )
    return list(found.values())


def _larger(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else max(one, other)


class Comparison(NamedTuple):
    """One phase of one step, predicted and measured; either may be missing."""

    step: Step
    phase: Phase
    predicted: PhasePeak | None
    measured: PhasePeak | None

    @property
    def difference(self) -> float | None:
        """How far predicted allocated bytes are above (or below) what was measured, as a ratio."""
        return self.difference_in("allocated")

    def difference_in(self, metric: Metric) -> float | None:
        """The same in any way of counting."""
        predicted, measured = (one.of(metric) if one else None for one in (self.predicted, self.measured))
        return predicted / measured - 1 if predicted is not None and measured else None


def compare(prediction: Prediction, measurement: Measurement) -> tuple[Comparison, ...]:
    """Load, then the phases of the first step, then the highest of all later ones if there were others."""
    steps = measurement.steps
    found = [*_step("", prediction.peaks(""), (measurement.load,) if measurement.load else ())]
    found.extend(_step("first", prediction.peaks("first"), steps[0].phases if steps else ()))
    if len(steps) > 1:
        later = merged(phase for step in steps[1:] for phase in step.phases)
        found.extend(_step("steady", prediction.peaks("steady", len(steps) - 1), later))
    return tuple(found)


def _step(name: Step, predicted: Iterable[PhasePeak], measured: Iterable[PhasePeak]) -> Iterator[Comparison]:
    ours, theirs = ({peak.phase: peak for peak in peaks} for peaks in (predicted, measured))
    for phase in ALL_PHASES:
        if phase in ours or phase in theirs:
            yield Comparison(name, phase, ours.get(phase), theirs.get(phase))


def peak_comparison(found: Iterable[Comparison]) -> Comparison | None:
    """The largest of all phases in each way of counting, predicted beside measured, whichever phases they are."""
    rows = [row for row in found if row.measured is not None and row.predicted is not None and row.step]
    if not rows:
        return None
    predicted, measured = _largest(row.predicted for row in rows), _largest(row.measured for row in rows)
    return Comparison("", measured.phase, predicted, measured)


def _largest(peaks: Iterable[PhasePeak | None]) -> PhasePeak:
    """The phase of the largest allocation, with the largest of what is counted in other ways."""
    there = [peak for peak in peaks if peak is not None]
    phase = max(there, key=lambda peak: peak.allocated_bytes).phase
    return merged(peak._replace(phase=phase) for peak in there)[0]
