"""What each micro-batch at each length needs of a card: the memory around the frontier of one scenario."""

from dataclasses import dataclass

from planner.estimators import Estimator
from planner.recommend.frontier import UNLIMITED, Lane, lane_of, lengths_of, shaped
from planner.recommend.shared import shared_estimator
from planner.recommend.verdict import judge
from planner.result import Verdict
from planner.spec import Scenario
from planner.stacks.values import MAX_MICRO_BATCH

MOST_LENGTHS, MOST_BATCHES = 10, 10
"""Lengths and micro-batches that a picture has room for; what the scenario itself has is always among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One micro-batch at one length."""

    seq_len: int
    micro_batch_size: int
    required_bytes: int
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """Points by row of one micro-batch and column of one length, and where the frontier lies between them.

    ``lane`` has the largest micro-batch of each of ``lengths`` to the sequence, among them those that are no row here.
    """

    scenario: Scenario
    lengths: tuple[int, ...]
    batches: tuple[int, ...]
    rows: tuple[tuple[Point, ...], ...]
    lane: Lane

    @property
    def points(self) -> tuple[Point, ...]:
        """All of them, row by row."""
        return tuple(point for row in self.rows for point in row)


def surface(scenario: Scenario, *, estimator: Estimator | None = None) -> Surface:
    """The surface of ``scenario`` by closed form; raise ``UnsupportedScenario`` where there is none for it."""
    estimate = estimator or shared_estimator()
    limit = scenario.model.max_position_embeddings or UNLIMITED
    lane = lane_of(scenario, _lengths(scenario, limit), limit, estimate)
    lengths = _shown_lengths(lane, scenario.train.seq_len)
    batches = _batches(lane, scenario.train.micro_batch_size)

    def point(seq_len: int, micro_batch_size: int) -> Point:
        found = estimate(shaped(scenario, seq_len, micro_batch_size))
        return Point(
            seq_len=seq_len,
            micro_batch_size=micro_batch_size,
            required_bytes=found.peak.required_bytes,
            verdict=judge(found, scenario.cluster),
        )

    rows = tuple(tuple(point(seq_len, batch) for seq_len in lengths) for batch in batches)
    return Surface(scenario=scenario, lengths=lengths, batches=batches, rows=rows, lane=lane)


def _lengths(scenario: Scenario, limit: int) -> tuple[int, ...]:
    """Doubling lengths, and the scenario's own."""
    return tuple(sorted({*lengths_of(scenario, limit), scenario.train.seq_len}))


def _shown_lengths(lane: Lane, own: int) -> tuple[int, ...]:
    """Up to the first length at which nothing fits, and the scenario's own; of too many the shortest go."""
    last = max((place for place, cell in enumerate(lane.cells) if cell.tight), default=2)
    lengths = [cell.seq_len for cell in lane.cells[: last + 2]]
    kept = lengths[-MOST_LENGTHS:]
    return tuple(sorted({*kept, own}))


def _batches(lane: Lane, own: int) -> tuple[int, ...]:
    """Doubling micro-batches from one up to the first that is too large for every length, and the scenario's own."""
    most = max((cell.tight for cell in lane.cells), default=0)
    found = [1, 2, 4]
    while found[-1] <= most and len(found) < MOST_BATCHES and 2 * found[-1] <= MAX_MICRO_BATCH:
        found.append(2 * found[-1])
    return tuple(sorted({*found, own}))
