"""The interval of an estimate: the only place where ``low_bytes`` and ``high_bytes`` come from.

A requirement can be off in two ways. The bytes that are *allocated* at the peak may be others than predicted: published
runs, and the user's own, say how far. And the allocator may need more or less *beyond* them than the closed form has as
its share for fragmentation: replays of traced steps say how far; a trace has replayed its own. The two are added.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from planner.calibration.own import Own, Runs, own_spread
from planner.calibration.residuals import Kind, Metric, Spread, Table, kind_of, look_up, predicted
from planner.formulas.overhead import fragmentation
from planner.result import Basis, Estimate, Peak
from planner.spec import Scenario
from planner.spec.layout import is_divided

STATED = 0.10
"""Half width where nothing was measured (stated)."""

ON_PROCESSOR = (-0.5, 4.0)
"""The same for closed forms on a processor (stated): they describe a card's kernels, and a processor's fallbacks of
fused ones took up to 4.5 times as much."""

LEAST = 0.002
"""The least that other people's runs leave open (stated): what rounding in allocator and print moves."""


class Errors(NamedTuple):
    """Where the next measurement will lie: lowest, likeliest and highest error, relative to the prediction."""

    low: float
    likeliest: float
    high: float
    basis: Basis


class Beyond(NamedTuple):
    """Bytes less and more than the predicted share for fragmentation that the allocator may need, by ``n`` replays."""

    low: int
    high: int
    n: int


EXACT = Beyond(0, 0, 0)


class Place(NamedTuple):
    """A kind of run, whether it is planned for a processor, and whether ranks divide the model or its sequences."""

    kind: Kind
    on_processor: bool
    divided: bool


@dataclass(frozen=True, slots=True)
class Calibration:
    """What has been measured: published runs and replays as a table, the user's own as runs."""

    table: Table = field(default_factory=dict)
    runs: Runs = field(default_factory=Runs)
    _known: dict[Place, Errors] = field(default_factory=dict, repr=False, compare=False)
    _shares: dict[Kind, Spread | None] = field(default_factory=dict, repr=False, compare=False)

    def errors(self, estimate: Estimate, scenario: Scenario, metric: Metric = "allocated") -> Errors:
        """How far one metric of an estimate may be off, by the nearest measurements that there are."""
        published = self._published(estimate, scenario, metric)
        width = (published.high - published.low) / 2
        own = own_spread(self.runs, scenario, estimate.evidence, metric, width)
        return published if own is None else Errors(own.low, own.shift, own.high, _own_basis(own))

    def beyond(self, estimate: Estimate, scenario: Scenario) -> Beyond:
        """How far the closed form's share for fragmentation may be off; a trace replays its own."""
        found = self._share(kind_of(scenario, estimate.evidence, "capacity"))
        if found is None or scenario.cluster.gpu.is_cpu:  # whose allocator keeps nothing back
            return EXACT
        share = fragmentation(estimate.peak.allocated_bytes)
        return Beyond(round(min(found.low, 0.0) * share), round(max(found.high, 0.0) * share), found.n)

    def _share(self, kind: Kind) -> Spread | None:
        """How replays of a kind of step spread, looked up once."""
        if kind not in self._shares:
            found = look_up(self.table, kind)
            self._shares[kind] = None if found is None else found[1]
        return self._shares[kind]

    def calibrated(self, estimate: Estimate, scenario: Scenario) -> Estimate:
        """The estimate with its interval, and with what own runs correct.

        Allocated bytes of the peak and its owners stay as the evidence says. What they are off by moves the
        requirement; reserved and device bytes move by their own errors where own runs have shown them.
        """
        if self.runs.silent(scenario):
            return self._by_others(estimate, scenario)
        errors = self.errors(estimate, scenario)
        bounds = bounds_of(estimate.peak, errors, self.beyond(estimate, scenario))
        bounds = bounds.within(*self._seen(estimate, scenario))
        basis = errors.basis._replace(correction_bytes=bounds.likeliest - estimate.peak.required_bytes)
        return replace(estimate, peak=self._peak(estimate, scenario, bounds), basis=basis)

    def _by_others(self, estimate: Estimate, scenario: Scenario) -> Estimate:
        """The same where nobody has own runs to look through: published ones alone, which correct nothing."""
        errors = self._published(estimate, scenario, "allocated")
        low, likeliest, high = bounds_of(estimate.peak, errors, self.beyond(estimate, scenario)).within(0, None)
        peak = replace(estimate.peak, required_bytes=likeliest, low_bytes=low, high_bytes=high)
        return replace(estimate, peak=peak, basis=errors.basis)

    def _published(self, estimate: Estimate, scenario: Scenario, metric: Metric) -> Errors:
        """By published runs of the narrowest group that has enough; those of the closed form speak for a trace too."""
        kind = kind_of(scenario, estimate.evidence, metric)
        place = Place(kind, scenario.cluster.gpu.is_cpu, is_divided(scenario.train))
        if place not in self._known:
            self._known[place] = self._looked_up(*place)
        return self._known[place]

    def _looked_up(self, kind: Kind, on_processor: bool, divided: bool) -> Errors:
        """Published runs were all made on GPUs with whole models, and say nothing about a processor or about parts."""
        table = {} if on_processor or divided else self.table
        found = look_up(table, kind) or look_up(table, kind._replace(evidence="closed-form"))
        if found is None:
            foreign = on_processor and kind.evidence == "closed-form"
            low, high = ON_PROCESSOR if foreign else (-STATED, STATED)
            return Errors(low, 0.0, high, Basis("stated"))
        group, one = found
        low, high = published_bounds(one)
        return Errors(low, 0.0, high, Basis("published", one.n, one.sources, group.words, one.coverage))

    def _seen(self, estimate: Estimate, scenario: Scenario) -> tuple[int, int | None]:
        """What own runs of this very scenario prove: the least bytes that may be enough, and bytes that are.

        A run that failed proves that what others had left of its card is too small. One that completed proves that what
        it reserved, and what lies outside the allocator, is enough, and that what it allocated is the least.
        """
        outside = estimate.peak.device_bytes - estimate.peak.reserved_bytes
        least, enough = [0], []
        for run in self.runs.of_scenario(scenario):
            if run.out_of_memory:
                least.append(max(run.held_bytes or 0, 0) + 1)
            else:
                least.append(run.measured.get("allocated", 0) + outside)
                enough += [
                    count for count in (run.held_bytes, _reserved(run.measured.get("reserved"), outside)) if count
                ]
        return max(least), min(enough, default=None)

    def _peak(self, estimate: Estimate, scenario: Scenario, bounds: "Bounds") -> Peak:
        peak = estimate.peak
        reserved = self._own_value(estimate, scenario, "reserved") or peak.reserved_bytes
        device = self._own_value(estimate, scenario, "device")
        return replace(
            peak,
            reserved_bytes=reserved,
            device_bytes=device or peak.device_bytes + reserved - peak.reserved_bytes,
            required_bytes=bounds.likeliest,
            low_bytes=bounds.low,
            high_bytes=bounds.high,
        )

    def _own_value(self, estimate: Estimate, scenario: Scenario, metric: Metric) -> int | None:
        own = own_spread(self.runs, scenario, estimate.evidence, metric, STATED)
        return None if own is None else round(predicted(estimate, metric) * (1 + own.shift))


class Bounds(NamedTuple):
    """Lowest, likeliest and highest requirement, in bytes."""

    low: int
    likeliest: int
    high: int

    def within(self, least: int, enough: int | None) -> "Bounds":
        """Narrowed by what was seen: no fewer than ``least``, and ``enough`` are enough; proof of failure wins.

        >>> Bounds(8, 10, 12).within(9, 11), Bounds(8, 10, 12).within(20, 11)
        (Bounds(low=9, likeliest=10, high=11), Bounds(low=20, likeliest=20, high=20))
        """
        if enough is not None:
            self = Bounds(*(min(count, enough) for count in self))
        return Bounds(*(max(count, least) for count in self))


def bounds_of(peak: Peak, errors: Errors, beyond: Beyond) -> Bounds:
    """The requirement of a bare estimate with both parts added: errors of allocated bytes, and fragmentation."""
    low, likeliest, high = (peak.required_bytes + round(error * peak.allocated_bytes) for error in errors[:3])
    return Bounds(low + beyond.low, likeliest, high + beyond.high)


def published_bounds(spread: Spread) -> tuple[float, float]:
    """Bounds that hold the prediction itself, and ``LEAST`` around it: published runs show no smaller differences."""
    return min(spread.low, -LEAST), max(spread.high, LEAST)


def _reserved(count: int | None, outside: int) -> int | None:
    return None if count is None else count + outside


def _own_basis(own: Own) -> Basis:
    return Basis(own.kind, len(own.runs), own.runs, coverage=own.coverage)
