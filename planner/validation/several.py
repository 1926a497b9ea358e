"""Runs on several GPUs by source, and each number that is far off with its reason (``off`` in the anchor row)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from planner.validation.checks import Check

FAR = 0.15
"""Error from which on a number for several GPUs owes its reader a reason."""


class Far(NamedTuple):
    """A number that lies more than ``FAR`` from the print. ``why`` is empty only in files of our users."""

    case: str
    metric: str
    published_bytes: int
    predicted_bytes: int
    error: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Several:
    """All numbers of one source that were printed of several GPUs, whatever their metric."""

    source: str
    stand_ins: bool
    runs: int
    n: int
    median_error: float
    worst_error: float
    worst_case: str
    far: tuple[Far, ...]


def several(checks: Iterable[Check]) -> tuple[Several, ...]:
    """Scores by source of all checks on more than one GPU; numbers that only bound a prediction count too."""
    groups: dict[tuple[bool, str], list[Check]] = {}
    for one in checks:
        if one.case.gpus > 1:
            groups.setdefault((one.case.stand_in is not None, one.case.source.id), []).append(one)
    return tuple(_score(groups[key]) for key in sorted(groups))


def _score(checks: Sequence[Check]) -> Several:
    worst = max(checks, key=lambda one: abs(one.error))
    return Several(
        source=worst.case.source.id,
        stand_ins=worst.case.stand_in is not None,
        runs=len({one.case.id for one in checks}),
        n=len(checks),
        median_error=median(abs(one.error) for one in checks),
        worst_error=worst.error,
        worst_case=worst.case.id,
        far=tuple(_far(one) for one in checks if abs(one.error) > FAR),
    )


def _far(one: Check) -> Far:
    nearer = one.published.low_bytes if one.error < 0 else one.published.high_bytes
    return Far(one.case.id, one.published.metric, nearer, one.predicted_bytes, one.error, one.case.off or "")


def stale(checks: Iterable[Check]) -> tuple[str, ...]:
    """Runs on several GPUs that are far off and do not say why, and runs that say why and are not."""
    numbers: dict[str, list[Check]] = {}
    for one in checks:
        if one.case.gpus > 1:
            numbers.setdefault(one.case.id, []).append(one)
    return tuple(
        f"{name}: {'is no longer far off' if found[0].case.off else 'does not say why'}"
        for name, found in numbers.items()
        if any(abs(one.error) > FAR for one in found) != (found[0].case.off is not None)
    )
