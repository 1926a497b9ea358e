"""The real limit of a device, found by real failures: the largest size that runs, the smallest that does not.

Sizes are batches or lengths. A prediction says where to begin; from there the search doubles its stride until it has
one size on either side, then halves the distance. Only running out of memory counts as a failure: a timeout or a kill
says nothing about memory, so it ends the search, which then tells what it knows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from planner.errors import UsageError
from planner.measure.values import Outcome

Dimension = Literal["micro_batch_size", "seq_len"]

MOST_PROBES = 24
"""Runs of one search: enough for a limit 2**8 strides away from its prediction, and for running it all again."""
MOST_BATCH = 2**16
MOST_TOKENS = 2**20
"""Where a model names no number of positions."""
SEQUENCE_STEP = 64


class Probe(NamedTuple):
    """One run at one size. ``peak_bytes`` are allocated ones: a run that failed was on its way beyond them."""

    size: int
    outcome: Outcome
    peak_bytes: int | None = None
    detail: str = ""

    @property
    def ran(self) -> bool:
        """Whether the step completed."""
        return self.outcome == "done"

    @property
    def tells(self) -> bool:
        """Whether the end says something about memory."""
        return self.outcome in ("done", "out_of_memory")


Try = Callable[[int], Probe]


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The sizes in question: multiples of ``step`` from ``lowest`` to ``highest``, both among them."""

    lowest: int
    highest: int
    step: int = 1

    def __post_init__(self) -> None:
        """Raise ``UsageError`` when there is no such size."""
        if self.step < 1 or not 0 < self.lowest <= self.highest or self.lowest % self.step or self.highest % self.step:
            raise UsageError(f"there is no multiple of {self.step} from {self.lowest} to {self.highest}")

    def near(self, size: int) -> int:
        """The largest size of the range that is not above ``size``, or the lowest.

        >>> Range(lowest=64, highest=640, step=64).near(200)
        192
        """
        return min(max(size - size % self.step, self.lowest), self.highest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search has found out. ``stopped`` says why it ended before it knew, and is empty when it knows.

    ``largest`` is ``None`` when nothing ran, ``failed`` when nothing ran out of memory.
    """

    sizes: Range
    probes: tuple[Probe, ...]
    largest: int | None
    failed: int | None
    stopped: str = ""

    @property
    def exact(self) -> bool:
        """Whether the limit is known: its neighbour failed, or there is none."""
        at_end = self.largest == self.sizes.highest or self.failed == self.sizes.lowest
        return not self.stopped and (at_end or self.failed == (self.largest or 0) + self.sizes.step)


class _Stopped(Exception):
    """The search cannot go on; the message says why."""


class _Search:
    """The probes so far, and the bracket that they make."""

    def __init__(self, attempt: Try, sizes: Range, most: int) -> None:
        self.attempt, self.sizes, self.most = attempt, sizes, most
        self.probes: list[Probe] = []

    @property
    def largest(self) -> int | None:
        return max((probe.size for probe in self.probes if probe.ran), default=None)

    @property
    def failed(self) -> int | None:
        return min((probe.size for probe in self.probes if probe.tells and not probe.ran), default=None)

    def runs(self, size: int) -> bool:
        """Run one size; raise ``_Stopped`` when its end says nothing about memory."""
        if len(self.probes) == self.most:
            raise _Stopped(f"{self.most} runs were not enough")
        probe = self.attempt(size)
        self.probes.append(probe)
        if not probe.tells:
            raise _Stopped(f"{size} {WORDS[probe.outcome]}, which says nothing about memory: {probe.detail}")
        return probe.ran

    def bracket(self, start: int) -> tuple[int, int]:
        """A size that runs and one that does not, each at most one step outside the range."""
        size, stride, sizes = start, self.sizes.step, self.sizes
        if self.runs(start):
            while size < sizes.highest:
                before, size = size, min(size + stride, sizes.highest)
                if not self.runs(size):
                    return before, size
                stride *= 2
            return size, size + sizes.step
        while size > sizes.lowest:
            before, size = size, max(size - stride, sizes.lowest)
            if self.runs(size):
                return size, before
            stride *= 2
        return size - sizes.step, size

    def bisect(self, low: int, high: int) -> None:
        """Halve the distance between a size that runs and one that does not, until they are neighbours."""
        step = self.sizes.step
        while high - low > step:
            middle = low + (high - low) // step // 2 * step
            low, high = (middle, high) if self.runs(middle) else (low, middle)

    def confirm(self) -> None:
        """Run both sides of the limit once more; raise ``_Stopped`` when a size does not end twice alike."""
        for size, expected in ((self.largest, True), (self.failed, False)):
            if size is not None and self.runs(size) != expected:
                raise _Stopped(f"{size} ran once and ran out of memory once: something else uses this memory")


WORDS = {"timed_out": "was stopped", "killed": "was killed", "failed": "failed"}


def find_limit(attempt: Try, sizes: Range, start: int, *, most: int = MOST_PROBES, confirm: bool = True) -> Found:
    """The limit of ``attempt`` among ``sizes``, looked for from ``start`` on in at most ``most`` runs.

    What runs is taken to run at every smaller size too; ``confirm`` runs both sides of the limit a second time.

    >>> from planner.measure.search import Probe, Range, find_limit
    >>> card = lambda size: Probe(size, "done" if size <= 11 else "out_of_memory")
    >>> found = find_limit(card, Range(lowest=1, highest=64), 9, confirm=False)
    >>> found.largest, found.failed, [probe.size for probe in found.probes]
    (11, 12, [9, 10, 12, 11])
    """
    search = _Search(attempt, sizes, most)
    stopped = ""
    try:
        search.bisect(*search.bracket(sizes.near(start)))
        if confirm:
            search.confirm()
    except _Stopped as reason:
        stopped = str(reason)
    probes = tuple(search.probes)
    return Found(sizes=sizes, probes=probes, largest=search.largest, failed=search.failed, stopped=stopped)


# ---------------------------------------------------------------- predicted


Required = Callable[[int], int]
"""Bytes that a size needs."""


def predicted_limit(required: Required, usable: int, sizes: Range, start: int | None = None) -> int | None:
    """The largest size that needs at most ``usable`` bytes, ``None`` when even the lowest needs more.

    ``required`` never falls. It is asked as seldom as may be, since a trace takes seconds: at ``start``, beside it,
    then where a straight line through the last two answers says, every fourth time halfway.

    >>> predicted_limit(lambda size: 100 + 7 * size, 150, Range(lowest=1, highest=64))
    7
    """
    step = sizes.step
    low, high = sizes.lowest - step, sizes.highest + step
    answers: list[tuple[int, int]] = []
    guess = sizes.lowest if start is None else sizes.near(start)
    while high - low > step:
        size = min(max(guess, low + step), high - step)
        answers.append((size, required(size)))
        low, high = (size, high) if answers[-1][1] <= usable else (low, size)
        guess = _next_guess(answers, usable, low, high, step)
    return low if low >= sizes.lowest else None


def _next_guess(answers: list[tuple[int, int]], usable: int, low: int, high: int, step: int) -> int:
    """Where to ask next: where the line through the last two answers meets ``usable``, or the size above it."""
    if len(answers) == 1:
        return low + step if answers[0][0] == low else high - step
    if len(answers) % BISECT_EVERY == 0:
        return low + (high - low) // step // 2 * step
    (first, at_first), (second, at_second) = answers[-2:]
    if at_first == at_second:
        return high - step if at_second <= usable else low + step
    meets = first + (usable - at_first) * (second - first) // (at_second - at_first)
    return meets - meets % step if meets - meets % step > low else low + step


BISECT_EVERY = 4
"""A curve can lead a line astray; halving cannot be led."""
