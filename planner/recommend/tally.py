"""What a sweep found, counted as its rows go by: of all rows only the best of each kind is kept, or all while few."""

from dataclasses import dataclass, field
from typing import NamedTuple

from planner.recommend.sweep import Row
from planner.result import Candidate, Verdict

MOST_KEPT = 40
"""Rows of a sweep that is small enough to be shown row by row."""


class Best(NamedTuple):
    """A candidate and the number by which it is the best."""

    value: float
    candidate: Candidate


@dataclass(slots=True)
class Count:
    """Rows of one model and method: how many of each verdict, and which of those that fit is cheapest and fastest."""

    verdicts: dict[Verdict, int] = field(default_factory=lambda: {"fits": 0, "tight": 0, "does_not_fit": 0})
    refused: int = 0
    cheapest: Best | None = None
    fastest: Best | None = None

    def add(self, row: Row) -> None:
        """Count one row."""
        one = row.candidate
        if one is None:
            self.refused += 1
            return
        self.verdicts[one.verdict] += 1
        if one.verdict == "fits":
            self.cheapest = _least(self.cheapest, one, price(one))
            self.fastest = _least(self.fastest, one, pace(one))


@dataclass(slots=True)
class Tally:
    """Counts by model and method, in the order in which they came, and the rows themselves as long as they are few."""

    counts: dict[tuple[str, str], Count] = field(default_factory=dict)
    kept: list[Row] = field(default_factory=list)
    rows: int = 0

    def add(self, row: Row) -> None:
        """Count one row."""
        self.rows += 1
        if self.few:
            self.kept.append(row)
        self.counts.setdefault((row.asked.model, row.asked.method), Count()).add(row)

    @property
    def few(self) -> bool:
        """Whether all rows are kept."""
        return self.rows <= MOST_KEPT

    @property
    def runs(self) -> bool:
        """Whether any row fits, with its margin or without."""
        return any(count.verdicts["fits"] or count.verdicts["tight"] for count in self.counts.values())


def price(candidate: Candidate) -> float | None:
    """US dollars of the run where somebody said how much there is to train on, else of an hour of all cards."""
    return usd_per_hour(candidate) if candidate.cost is None else candidate.cost.usd


def usd_per_hour(candidate: Candidate) -> float | None:
    """The typical price of all cards together, else the low one; ``None`` where no price is known."""
    cluster = candidate.scenario.cluster
    usd = None if cluster.gpu.price is None else cluster.gpu.price.usd
    return None if usd is None else round(usd * cluster.world_size, 4)


def pace(candidate: Candidate) -> float | None:
    """Seconds for a token; ``None`` where no rate of the card is known."""
    return None if candidate.step is None else 1 / candidate.step.tokens_per_second


def _least(best: Best | None, one: Candidate, value: float | None) -> Best | None:
    """The better of two: the smaller value, and of equal ones the first."""
    if value is None or (best is not None and best.value <= value):
        return best
    return Best(value, one)
