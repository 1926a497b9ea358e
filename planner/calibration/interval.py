"""The interval of an estimate: the only place where ``low_bytes`` and ``high_bytes`` come from."""

from dataclasses import dataclass, field, replace

from planner.calibration.own import Own, Runs, own_spread
from planner.calibration.residuals import METRICS, Kind, Metric, Spread, Table, kind_of, look_up, predicted
from planner.result import Basis, Estimate, Peak
from planner.spec import Scenario

STATED = 0.10
"""Half width where nothing was measured (stated): twice the worst error of the closed form on published one-GPU runs of
a stack that it models, docs/validation.md."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What has been measured: published runs as a table, the user's own as runs."""

    table: Table = field(default_factory=dict)
    runs: Runs = field(default_factory=Runs)

    def interval(self, estimate: Estimate, scenario: Scenario, metric: Metric) -> tuple[int, int, int]:
        """Lowest, likeliest and highest bytes of one metric."""
        low, shift, high, _ = self._errors(estimate, scenario, metric)
        ours = predicted(estimate, metric)
        return _moved(ours, low), _moved(ours, shift), _moved(ours, high)

    def calibrated(self, estimate: Estimate, scenario: Scenario) -> Estimate:
        """The estimate with its interval, and with what own runs correct.

        The allocated bytes of the peak and its owners stay as the evidence says. What they are off by moves the
        requirement; reserved and device bytes move by their own errors where own runs have shown them.
        """
        low, shift, high, basis = self._errors(estimate, scenario, "allocated")
        peak, allocated = estimate.peak, estimate.peak.allocated_bytes
        required = peak.required_bytes + round(shift * allocated)
        bounded = self._limited(
            scenario,
            peak.required_bytes + round(low * allocated),
            required,
            peak.required_bytes + round(high * allocated),
        )
        basis = basis._replace(correction_bytes=bounded[1] - peak.required_bytes)
        return replace(estimate, peak=self._peak(estimate, scenario, bounded), basis=basis)

    def _errors(self, estimate: Estimate, scenario: Scenario, metric: Metric) -> tuple[float, float, float, Basis]:
        kind = kind_of(scenario, estimate.evidence, metric)
        found = look_up(self.table, kind)
        low, high = (found[1].low, found[1].high) if found else (-STATED, STATED)
        own = own_spread(self.runs, scenario, estimate.evidence, metric, (high - low) / 2)
        if own is not None:
            return own.low, own.shift, own.high, _own_basis(own)
        return min(low, 0.0), 0.0, max(high, 0.0), _published_basis(found)

    def _limited(self, scenario: Scenario, low: int, required: int, high: int) -> tuple[int, int, int]:
        """A card on which this scenario failed is too small, one on which it ran is large enough."""
        failed, ran = self.runs.limits(scenario)
        if failed is not None:
            low, required, high = max(low, failed), max(required, failed + 1), max(high, failed + 1)
        if ran is not None and (failed is None or ran > failed):
            low, required, high = min(low, ran), min(required, ran), min(high, ran)
        return low, required, high

    def _peak(self, estimate: Estimate, scenario: Scenario, bounded: tuple[int, int, int]) -> Peak:
        peak = estimate.peak
        low, required, high = bounded
        reserved = self._own_value(estimate, scenario, "reserved")
        device = self._own_value(estimate, scenario, "device")
        return replace(
            peak,
            reserved_bytes=reserved or peak.reserved_bytes,
            device_bytes=device or peak.device_bytes + (reserved - peak.reserved_bytes if reserved else 0),
            required_bytes=required,
            low_bytes=low,
            high_bytes=high,
        )

    def _own_value(self, estimate: Estimate, scenario: Scenario, metric: Metric) -> int | None:
        own = own_spread(self.runs, scenario, estimate.evidence, metric, STATED)
        return None if own is None else _moved(predicted(estimate, metric), own.shift)


def _moved(count: int, error: float) -> int:
    return round(count * (1 + error))


def _own_basis(own: Own) -> Basis:
    return Basis(own.kind, len(own.runs), own.runs, coverage=own.coverage)


def _published_basis(found: tuple[Kind, Spread] | None) -> Basis:
    if found is None:
        return Basis("stated")
    kind, one = found
    return Basis("published", one.n, one.sources, kind.words, one.coverage)


__all__ = ["METRICS", "STATED", "Calibration"]
