"""Owners on top of each other, in bytes: what a bar of any chart is made of."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from planner.render.charts.look import OWNER_WORDS, Spec
from planner.render.picture import LOW
from planner.result import Candidate
from planner.units import GIB, format_bytes


class Segment(NamedTuple):
    """One owner's bytes in one stack."""

    stack: str
    owner: str
    start: int
    bytes: int

    def row(self, where: str) -> Spec:
        """As a row of the chart's data."""
        name = f"{OWNER_WORDS[self.owner]}{where}: {format_bytes(self.bytes)}"
        return {
            "stack": self.stack,
            "owner": self.owner,
            "from": self.start / GIB,
            "to": (self.start + self.bytes) / GIB,
            "told": name,
        }


def segments(stack: str, sizes: dict[str, int]) -> Iterator[Segment]:
    """Owners that have bytes, each on top of the one before."""
    start = 0
    for owner, count in sizes.items():
        if count > 0:
            yield Segment(stack, owner, start, count)
            start += count


def with_slack(candidate: Candidate) -> dict[str, int]:
    """Owners at the peak, and what a card must have besides."""
    peak = candidate.estimate.peak
    slack = max(peak.required_bytes - peak.allocated_bytes, 0)
    return {**candidate.estimate.peak_memory._asdict(), "context": slack}


def drawn(usable: int, highest: int) -> bool:
    """Whether the card's line stands in the picture: one that is far above would press the rest flat."""
    return usable <= LOW * highest


def owners_of(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Owners that have bytes in any phase or peak, in the order of the stacks."""
    seen = {owner for one in candidates for owner, count in with_slack(one).items() if count > 0}
    for one in candidates:
        for memory in one.estimate.phases.values():
            seen |= {owner for owner, count in memory._asdict().items() if count}
    return tuple(owner for owner in OWNER_WORDS if owner in seen)
