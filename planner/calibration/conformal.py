"""Split conformal prediction: how far the next measurement will lie from its prediction, judging by earlier ones.

Nothing is assumed of the errors but that the next one is drawn like those before it. Rows of one source resemble each
other more than that, so a source has no more say than ``MOST_PER_SOURCE`` rows of its own.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import ceil
from typing import NamedTuple

COVERAGE = 0.90
"""Share of measurements that an interval shall hold."""

MOST_PER_SOURCE = 20
"""Rows for which one source counts at most (ours): more rows of the same kind of run prove little about other kinds."""


class Weighted(NamedTuple):
    """A signed relative error, and for how many rows it counts."""

    error: float
    weight: float = 1.0


def balanced(rows: Iterable[tuple[str, float]]) -> tuple[Weighted, ...]:
    """Errors with weights by source.

    Shapes:    (source, error) per row
    Formula:   weight = min(1, 20 / rows of the source)
    Source:    after Dunn, Wasserman, Ramdas 2022, arXiv:1809.07441, section 4: rows that come in groups are not alone
    Valid:     any number of rows

    >>> [one.weight for one in balanced([("a", 0.1), ("a", 0.2), ("b", 0.3)])]
    [1.0, 1.0, 1.0]
    """
    kept = list(rows)
    counts = Counter(source for source, _ in kept)
    return tuple(Weighted(error, min(1.0, MOST_PER_SOURCE / counts[source])) for source, error in kept)


def bounds(errors: Sequence[Weighted], coverage: float = COVERAGE) -> tuple[float, float] | None:
    """Lowest and highest error that the next row has with probability ``coverage``; ``None`` for too few rows.

    Shapes:    signed errors, each with a weight of at most 1
    Formula:   high: smallest error with  sum of weights up to it >= (1 - a/2) (W + 1);  low likewise from above;
               a = 1 - coverage, W = sum of all weights; the 1 stands for the next row, whose error may be anything
    Source:    Barber, Candes, Ramdas, Tibshirani 2023, arXiv:2202.13415, section 3; with equal weights the
               (n + 1)-quantile of Vovk's split conformal prediction
    Valid:     W >= 2/a - 1, 19 for a coverage of 0.9

    >>> bounds([Weighted(n / 100) for n in range(1, 20)])
    (0.01, 0.19)
    >>> bounds([Weighted(0.0)] * 18) is None
    True
    """
    needed = (1 - (1 - coverage) / 2) * (sum(one.weight for one in errors) + 1)
    high = _reached(sorted(errors), needed)
    low = _reached(sorted(errors, reverse=True), needed)
    return None if low is None or high is None else (low, high)


def _reached(ordered: Iterable[Weighted], needed: float) -> float | None:
    total = 0.0
    for error, weight in ordered:
        total += weight
        if total >= needed - ROUNDING:
            return error
    return None


ROUNDING = 1e-9
"""Weights are fractions: their sum may miss a whole number by this."""


def median(errors: Sequence[Weighted]) -> float:
    """The weighted median: the smallest error that half of all weight does not exceed.

    >>> median([Weighted(0.1), Weighted(0.2), Weighted(0.9)])
    0.2
    """
    found = _reached(sorted(errors), sum(one.weight for one in errors) / 2)
    assert found is not None
    return found


def rows_for(coverage: float = COVERAGE) -> int:
    """How many rows of full weight an interval takes.

    >>> rows_for(0.9), rows_for(0.5)
    (19, 3)
    """
    return ceil(2 / (1 - coverage) - ROUNDING) - 1
