"""A model too large for the device, from its first layers: measured at two depths, extrapolated to the whole.

Allocated bytes of each phase are linear in the number of whole periods of layers, so each phase is extrapolated by
itself, and the largest of the results is the peak: which phase is the largest may change with depth. A stated error
comes from a third depth that the two predict, or, where no third one fits, from the same extrapolation of traces.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from planner.closed_form import estimate
from planner.errors import UnsupportedScenario
from planner.measure.values import Measurement, PhasePeak, Prediction, StepPeaks
from planner.result import Estimate, Memory, Phase
from planner.spec import Scenario
from planner.trace.layers import Depth, find_depth, tells_layers_apart

FEWEST_PERIODS = 2
"""One period alone is its own first and last one, which may be special; it is measured where no more fit."""
PERIODS_OF_THREE = 4
"""So many fitting periods leave room for three depths that are not neighbours of one another's ends."""


def depth_of(scenario: Scenario) -> Depth:
    """Which layers are alike, from the architecture; raise ``UnsupportedScenario`` where that is not known.

    A model of few layers, all alike, repeats too.
    """
    layout, name = scenario.model.layout, scenario.model.name
    if not scenario.model.blocks or tells_layers_apart(scenario, scenario.train.adapter):
        raise UnsupportedScenario(f"which layers of {name} are alike is not known here: name the depth with --layers N")
    if len(set(layout)) == 1:
        return Depth(len(layout), 0, 1)
    return find_depth(layout)


def closed_form_of(scenario: Scenario, layers: int | None) -> Estimate | None:
    """The closed form of the first ``layers`` layers, or of all; ``None`` where there is none."""
    try:
        return estimate(shortened(scenario, layers) if layers else scenario)
    except UnsupportedScenario:
        return None


def shortened(scenario: Scenario, layers: int) -> Scenario:
    """The same question about the first ``layers`` layers, for closed forms."""
    return replace(scenario, model=replace(scenario.model, layout=scenario.model.layout[:layers]))


# ---------------------------------------------------------------- depths


def layers_at(depth: Depth, periods: int) -> int:
    """Layers with ``periods`` whole periods: the prefix, and the partial period in which the whole model ends.

    >>> layers_at(Depth(61, 3, 1), 2), layers_at(Depth(34, 0, 6), 2)
    (5, 16)
    """
    return depth.prefix + periods * depth.period + (depth.layers - depth.prefix) % depth.period


def choose_depths(depth: Depth, fits: Callable[[int], bool]) -> tuple[int, ...]:
    """Two numbers of layers that fit, and a third to hold them against where it does; the smallest first.

    ``fits`` is asked for numbers of layers, and taken to hold for every smaller one. Raise ``UnsupportedScenario``
    where no two of them fit.

    >>> choose_depths(Depth(32, 0, 1), lambda layers: layers <= 10)
    (2, 6, 10)
    """
    whole = (depth.layers - depth.prefix) // depth.period
    low, high = 0, whole
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(layers_at(depth, middle)) else (low, middle)
    if low < FEWEST_PERIODS:
        least = layers_at(depth, min(FEWEST_PERIODS, whole))
        raise UnsupportedScenario(
            f"two depths are needed, and {least} of {depth.layers} layers do not fit on this device: "
            "use fewer or shorter sequences, or a larger device"
        )
    return tuple(layers_at(depth, periods) for periods in _periods(low))


def _periods(most: int) -> tuple[int, ...]:
    if most < PERIODS_OF_THREE:
        return (most - 1, most)
    return (FEWEST_PERIODS, (FEWEST_PERIODS + most) // 2, most)


# ---------------------------------------------------------------- the line through two


class Line(NamedTuple):
    """A straight line through two depths (layers)."""

    first: int
    second: int
    at: int

    def bytes(self, first: int, second: int) -> int:
        """What two counts say of the depth ``at``.

        >>> Line(2, 4, 32).bytes(100, 120)
        400
        """
        return first + round((second - first) * (self.at - self.first) / (self.second - self.first))

    def seconds(self, first: float, second: float) -> float:
        """The same for times."""
        return first + (second - first) * (self.at - self.first) / (self.second - self.first)


class Check(NamedTuple):
    """The extrapolation where the truth is known: the peak of ``layers`` layers, extrapolated and as it is.

    ``held out``: measured at a third depth. ``traced``: of the whole model, both from traces.
    """

    basis: Literal["held out", "traced"]
    layers: int
    extrapolated_bytes: int
    true_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Extrapolation:
    """Runs at two or three depths, the smallest first, and ``whole``: what they say of the whole model.

    ``whole`` has the form of a measurement and is none: its bytes and its seconds are extrapolated. Its reserved bytes
    are allocated ones times the ratio of the deepest run; ``reserved_ratios`` are the lowest and the highest of all
    runs, since an allocator is not linear.
    """

    depth: Depth
    runs: tuple[Measurement, ...]
    whole: Measurement
    check: Check
    reserved_ratios: tuple[float, float] | None

    @property
    def error(self) -> float:
        """Relative error to expect in the peak: the check's, grown with the distance where it is of another depth."""
        check, peak = self.check, self.whole.peak
        off = check.extrapolated_bytes - check.true_bytes
        if check.basis == "traced" or peak is None:
            return off / check.true_bytes
        second = _layers(self.runs[1])
        return off * (self.depth.layers - second) / (check.layers - second) / peak.allocated_bytes


def extrapolated(runs: Sequence[Measurement], layers: int | None, at: int) -> Measurement:
    """What the first two of ``runs`` say of a depth of ``at`` layers, as if it had been measured.

    ``layers`` is what the result calls its depth. Steps and phases that only one of them has are left out.
    """
    first, second = runs[:2]
    line = Line(_layers(first), _layers(second), at)
    deepest = runs[-1]
    load = _peak(line, first.load, second.load, deepest.load) if first.load and second.load else None
    owners = {name: line.bytes(count, second.owners.get(name, count)) for name, count in first.owners.items()}
    steps = zip(first.steps, second.steps, deepest.steps, strict=False)
    return replace(
        second,
        layers=layers,
        owners=owners,
        load=load,
        host_bytes=None,
        steps=tuple(
            one._replace(seconds=line.seconds(one.seconds, two.seconds), phases=tuple(_peaks(line, one, two, last)))
            for one, two, last in steps
        ),
    )


def _layers(run: Measurement) -> int:
    return run.layers if run.layers is not None else run.scenario.model.num_hidden_layers


def _peaks(line: Line, first: StepPeaks, second: StepPeaks, deepest: StepPeaks) -> Iterator[PhasePeak]:
    others, deep = ({peak.phase: peak for peak in step.phases} for step in (second, deepest))
    for peak in first.phases:
        if peak.phase in others:
            yield _peak(line, peak, others[peak.phase], deep.get(peak.phase))


def _peak(line: Line, first: PhasePeak, second: PhasePeak, deepest: PhasePeak | None) -> PhasePeak:
    allocated = line.bytes(first.allocated_bytes, second.allocated_bytes)
    reserved = device = None
    if deepest is not None and deepest.reserved_bytes is not None and deepest.allocated_bytes:
        reserved = round(allocated * deepest.reserved_bytes / deepest.allocated_bytes)
        outside = None if deepest.device_bytes is None else deepest.device_bytes - deepest.reserved_bytes
        device = None if outside is None else reserved + outside
    return first._replace(allocated_bytes=allocated, reserved_bytes=reserved, device_bytes=device)


def reserved_ratios(runs: Iterable[Measurement]) -> tuple[float, float] | None:
    """Lowest and highest ratio of reserved to allocated bytes at the peaks of ``runs``."""
    peaks = [run.peak for run in runs]
    found = [peak.reserved_bytes / peak.allocated_bytes for peak in peaks if peak is not None and peak.reserved_bytes]
    return (min(found), max(found)) if found else None


def extrapolated_peak(predictions: Sequence[Prediction], layers: Sequence[int], at: int) -> int:
    """Bytes of the largest phase at ``at`` layers, from two traces of ``layers`` each, phase by phase."""
    line = Line(layers[0], layers[1], at)
    totals = [_totals(one) for one in predictions[:2]]
    return max(line.bytes(count, totals[1][place]) for place, count in totals[0].items() if place in totals[1])


def _totals(prediction: Prediction) -> dict[tuple[str, Phase], int]:
    steps: Mapping[str, Mapping[Phase, Memory]] = {"first": prediction.first, "steady": prediction.steady}
    found = {(step, phase): memory.total for step, phases in steps.items() for phase, memory in phases.items()}
    return {**found, ("", "load"): prediction.load.total}


# ---------------------------------------------------------------- all of it


Runs = tuple[Measurement, ...]


def measure_depths(depth: Depth, fits: Callable[[int], bool], run: Callable[[int], Measurement]) -> Runs:
    """Real steps at two depths that fit, and at a third where it does and ends well; ``run`` takes so many layers.

    Where one runs out of memory all the same, fewer layers are taken. Raise ``UnsupportedScenario`` when no two depths
    are left, or one of the two that are needed ends otherwise.
    """
    known: dict[int, Measurement] = {}
    while True:
        depths = choose_depths(depth, fits)
        known |= {layers: run(layers) for layers in depths[:2] if layers not in known}
        failed = [layers for layers in depths[:2] if known[layers].outcome == "out_of_memory"]
        if not failed:
            break
        fits = below(min(failed), fits)
    runs = [_needed(known[layers]) for layers in depths[:2]]
    third = [found for layers in depths[2:] if (found := run(layers)).outcome == "done"]
    return (*runs, *third)


def below(most: int, fits: Callable[[int], bool]) -> Callable[[int], bool]:
    """``fits``, of fewer than ``most`` layers only."""
    return lambda layers: layers < most and fits(layers)


def measure_truncated(
    depth: Depth,
    fits: Callable[[int], bool],
    run: Callable[[int], Measurement],
    predict: Callable[[int | None], Prediction],
) -> Extrapolation:
    """Measure at the depths that fit and extrapolate to all layers; ``predict`` traces so many (all: ``None``)."""
    runs = measure_depths(depth, fits, run)
    return Extrapolation(
        depth=depth,
        runs=runs,
        whole=extrapolated(runs, None, depth.layers),
        check=_held_out(runs[:2], runs[2]) if len(runs) > 2 else _traced(depth, runs, predict),
        reserved_ratios=reserved_ratios(runs),
    )


def _needed(run: Measurement) -> Measurement:
    if run.outcome != "done":
        how = run.outcome.replace("_", " ")
        raise UnsupportedScenario(f"the run of {run.layers} layers did not complete ({how}: {run.detail})")
    return run


def _held_out(runs: Sequence[Measurement], third: Measurement) -> Check:
    at = _layers(third)
    predicted, true = extrapolated(runs, at, at).peak, third.peak
    assert predicted is not None
    assert true is not None
    return Check("held out", at, predicted.allocated_bytes, true.allocated_bytes)


def _traced(depth: Depth, runs: Runs, predict: Callable[[int | None], Prediction]) -> Check:
    depths = [_layers(run) for run in runs]
    traces = [predict(layers) for layers in depths]
    return Check("traced", depth.layers, extrapolated_peak(traces, depths, depth.layers), predict(None).peak_bytes)
