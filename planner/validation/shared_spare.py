"""What the allocator keeps on several GPUs, judged by sources that its constants have not seen."""

from collections.abc import Iterable, Sequence
from statistics import linear_regression, median
from typing import NamedTuple

from planner.estimators import Estimator
from planner.formulas.overhead import SHARED_SPARE_BYTES, SHARED_SPARE_FRACTION
from planner.validation.anchors import Published
from planner.validation.checks import Check, Kind, scenario_of, signed_error

READINGS = ("reserved", "device")
"""Metrics that hold what the allocator keeps."""


class Line(NamedTuple):
    """Bytes kept beyond allocated ones: a share of what varies in a step, and fixed bytes."""

    share: float
    fixed: float


SHIPPED = Line(SHARED_SPARE_FRACTION, SHARED_SPARE_BYTES)
"""Fitted to the adapter runs of one source: formulas/overhead.py."""


class Reading(NamedTuple):
    """One printed number, and the parts of our prediction that no line touches."""

    source: str
    kind: Kind
    adapters: bool
    varying: int
    allocated: int
    beside: int
    """Context and NCCL, where the number holds them."""
    published: Published

    @property
    def kept(self) -> int:
        """What the number says was kept beyond our allocated bytes."""
        return self.published.low_bytes - self.beside - self.allocated

    def error(self, line: Line) -> float:
        """Signed error of the prediction that a line makes."""
        spare = int(line.share * self.varying + min(line.fixed, self.allocated))
        found = signed_error(self.allocated + spare + self.beside, self.published)
        return min(found, 0.0) if self.kind == "bound" else found


class SpareScore(NamedTuple):
    """Errors of one source, with the shipped line and with one fitted to all other sources."""

    source: str
    runs: str
    """Of adapters, on whose like the line is fitted, or ``full`` fine-tuning, which it is known to miss."""
    n: int
    shipped_median: float
    shipped_worst: float
    held_out_median: float
    held_out_worst: float


def spare_scores(checks: Iterable[Check], estimator: Estimator) -> tuple[SpareScore, ...]:
    """Every source that prints reserved or device bytes of several GPUs, where others suffice to fit a line."""
    found = readings(checks, estimator)
    groups = sorted({(one.source, one.adapters) for one in found}, key=lambda key: (not key[1], key[0]))
    scores = (_score(source, adapters, found) for source, adapters in groups)
    return tuple(one for one in scores if one is not None)


def readings(checks: Iterable[Check], estimator: Estimator) -> tuple[Reading, ...]:
    """Reserved and device bytes of several GPUs, with the parts of our answer."""
    several = (one for one in checks if one.case.gpus > 1 and one.published.metric in READINGS)
    return tuple(_reading(one, estimator) for one in several)


def _reading(one: Check, estimator: Estimator) -> Reading:
    answer = estimator(scenario_of(one.case))
    peak, memory = answer.peak, answer.phases[answer.peak.phase]
    return Reading(
        source=one.case.source.id,
        kind=one.kind,
        adapters=one.case.method != "full",
        varying=memory.activations + memory.logits + memory.temporaries,
        allocated=peak.allocated_bytes,
        beside=peak.device_bytes - peak.reserved_bytes if one.published.metric == "device" else 0,
        published=one.published,
    )


def line_of(found: Iterable[Reading]) -> Line | None:
    """The line through adapter runs by least squares; numbers that only bound a prediction do not count."""
    used = [one for one in found if one.adapters and one.kind == "value"]
    varying = [one.varying for one in used]
    return Line(*linear_regression(varying, [one.kept for one in used])) if len(set(varying)) > 1 else None


def _score(source: str, adapters: bool, found: Sequence[Reading]) -> SpareScore | None:
    line = line_of(one for one in found if one.source != source)
    if line is None:
        return None
    own = [one for one in found if (one.source, one.adapters) == (source, adapters)]
    shipped, held_out = ([one.error(kept) for one in own] for kept in (SHIPPED, line))
    return SpareScore(
        source=source,
        runs="adapters" if adapters else "full",
        n=len(own),
        shipped_median=median(map(abs, shipped)),
        shipped_worst=max(shipped, key=abs),
        held_out_median=median(map(abs, held_out)),
        held_out_worst=max(held_out, key=abs),
    )
