"""From clusters of counted rows to the whole file: totals, standard error, lengths."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from planner.spec.job import Lengths

EXACT_BELOW = 64
"""Lengths up to this many tokens are kept as they are."""
STEPS = 32
"""Of longer ones, those within 1/32 of an octave stand together."""


@dataclass(frozen=True, slots=True)
class Counted:
    """One cluster: its share of the file, and the tokens that were found in it."""

    size: int
    tokens: int


def ratio_standard_error(clusters: Sequence[Counted], *, size: int, total: int) -> float:
    """Standard error of a file's tokens, estimated as size times tokens per size of the clusters that were drawn.

    Shapes:    clusters: k of ``total``, drawn without repetition; size: of the whole file
    Formula:   total * sqrt((1 - k / total) / k * sum((t_i - r * s_i)^2) / (k - 1)), r = sum(t) / sum(s)
    Source:    Cochran 1977, Sampling Techniques, 3rd edition, equations 6.9 to 6.13
    Valid:     30 clusters and more; fewer give a hint
    Excludes:  the way of counting itself

    >>> ratio_standard_error([Counted(10, 5), Counted(20, 10)], size=300, total=20)
    0.0
    """
    k = len(clusters)
    sizes = sum(one.size for one in clusters)
    if k < 2 or not sizes:
        return 0.0
    ratio = sum(one.tokens for one in clusters) / sizes
    residual = sum((one.tokens - ratio * one.size) ** 2 for one in clusters) / (k - 1)
    return float(total * (max(1 - k / total, 0.0) / k * residual) ** 0.5)


def scaled(count: int, factor: float) -> int:
    """A count within what was read as one of the whole file."""
    return round(count * factor)


def scaled_lengths(found: dict[int, int], factor: float) -> Lengths:
    """Lengths of the whole file; rounding is carried along, so that the sum of counts is that of all sequences.

    >>> scaled_lengths({10: 1, 11: 1, 12: 1}, 1.5).counts
    ((10, 2), (11, 1), (12, 2))
    """
    counts, exact, given = [], 0.0, 0
    for length in sorted(found):
        exact += found[length] * factor
        count = int(exact + 0.5) - given
        given += count
        if count:
            counts.append((length, count))
    return Lengths(tuple(counts))


def condensed(lengths: Lengths) -> Lengths:
    """The same sequences and tokens in few entries: near lengths become their mean, the longest stays itself.

    Formula:   n sequences of T tokens become n - T mod n of floor(T / n) and T mod n of one more
    Source:    derived here: both sums are kept, and squares grow or shrink by less than 1/32^2 of themselves
    """
    bins: dict[int, list[tuple[int, int]]] = {}
    for length, count in lengths.counts:
        bins.setdefault(_bin(length, lengths.longest), []).append((length, count))
    merged: dict[int, int] = {}
    for pairs in bins.values():
        for length, count in _mean(pairs):
            merged[length] = merged.get(length, 0) + count
    return Lengths(tuple(sorted(merged.items())))


def _bin(length: int, longest: int) -> int:
    if length <= EXACT_BELOW or length == longest:
        return length
    octave = length.bit_length() - EXACT_BELOW.bit_length()
    return -((octave + 1) * 10_000 + (length >> (octave + 1)))


def _mean(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    pairs = list(pairs)
    count = sum(number for _, number in pairs)
    each, more = divmod(sum(length * number for length, number in pairs), count)
    return [(length, number) for length, number in ((each, count - more), (each + 1, more)) if number]
