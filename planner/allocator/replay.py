"""A trace, replayed: what the caching allocator hands out and holds, and whether the device has enough for it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from planner.allocator.caching import CachingAllocator
from planner.allocator.config import Settings
from planner.allocator.constants import Constants, constants
from planner.allocator.events import Trace, peaks
from planner.allocator.expandable import ExpandableAllocator
from planner.allocator.pools import Chunk
from planner.result import Phase

DEFAULT = Settings()


class Usage(NamedTuple):
    """The highest values within one phase of one step, in bytes; each may be reached at another instant.

    ``requested``: as asked for. ``allocated``: as handed out (torch's ``allocated_bytes``, with what rounding and
    unsplit rests add). ``reserved``: held by the allocator. ``inactive_split``: free, in segments that are in use.
    """

    phase: Phase
    step: int
    requested: int
    allocated: int
    reserved: int
    inactive_split: int


@dataclass(frozen=True, slots=True)
class Replay:
    """What became of a trace. After ``out_of_memory``, the number of the event that failed, nothing was replayed."""

    phases: tuple[Usage, ...]
    requested: int
    allocated: int
    reserved: int
    inactive_split: int
    fragmentation: int
    """Reserved less allocated bytes at the instant when reserved bytes were highest for the first time."""
    segments: int
    """How often memory was taken from the device (cudaMalloc, or pages mapped: torch's num_device_alloc)."""
    released_segments: int
    """How often it was given back (num_device_free)."""
    retries: int
    """How often everything cached was given back to make room (num_alloc_retries)."""
    out_of_memory: int | None
    handed_out: tuple[int, ...]
    """Bytes of every block as it was handed out: rounded, and with the rest that was not worth splitting off."""

    @property
    def active(self) -> int:
        """As allocated: on one stream nothing waits for another."""
        return self.allocated

    @property
    def completed(self) -> bool:
        """Whether the whole trace ran."""
        return self.out_of_memory is None


def allocator(
    settings: Settings = DEFAULT, capacity: int | None = None, sizes: Constants | None = None
) -> CachingAllocator:
    """The allocator that these settings choose."""
    kind = ExpandableAllocator if settings.expandable_segments else CachingAllocator
    return kind(sizes or constants(), settings, capacity)


def replay(
    trace: Trace, settings: Settings = DEFAULT, *, capacity: int | None = None, sizes: Constants | None = None
) -> Replay:
    """Run a trace through the allocator of one device.

    ``capacity``: bytes that the device can give to this allocator in all, context and other processes left out.
    What happens before the first mark counts to the totals, not to any phase.

    >>> from planner.allocator.events import OUTSIDE, Block, Mark
    >>> one = Trace((Block(3 * 2**20, "weights", "w"),), (0,), (OUTSIDE,), (Mark(0, "load", 0),))
    >>> replay(one).allocated, replay(one).reserved
    (3145728, 20971520)
    """
    run = _Run(trace, allocator(settings, capacity, sizes))
    phases = tuple(run.phases())
    return run.result(phases)


def uncached(trace: Trace) -> Replay:
    """A trace where nothing is rounded or cached, as on a processor: everything held is in use."""
    phases = [(instant.phase, instant.step, instant.memory.total) for instant in peaks(trace)]
    top = max((level for _, _, level in phases), default=0)
    return Replay(
        phases=tuple(Usage(phase, step, level, level, level, 0) for phase, step, level in phases),
        requested=top,
        allocated=top,
        reserved=top,
        inactive_split=0,
        fragmentation=0,
        segments=sum(event >= 0 for event in trace.events),
        released_segments=sum(event < 0 for event in trace.events),
        retries=0,
        out_of_memory=None,
        handed_out=tuple(block.bytes for block in trace.blocks),
    )


class _Run:
    """Levels and peaks while events are replayed."""

    def __init__(self, trace: Trace, device: CachingAllocator) -> None:
        self.trace, self.device = trace, device
        self.splits = not device.settings.expandable_segments
        self.rounded = _rounded(trace, device)
        self.chunks: list[Chunk | None] = [None] * len(trace.blocks)
        self.handed_out = [0] * len(trace.blocks)
        self.requested = self.allocated = 0
        self.top = [0, 0, 0, 0]
        """Peaks of requested, allocated, reserved, inactive split over the whole trace."""
        self.fragmentation = 0
        self.failed: int | None = None

    def phases(self) -> Iterator[Usage]:
        """Every phase up to the one that fails."""
        marks = self.trace.marks
        self._run(0, marks[0].index if marks else len(self.trace.events))
        for mark, start, end in self.trace.phase_ranges():
            if self.failed is None:
                yield Usage(mark.phase, mark.step, *self._run(start, end))

    def result(self, phases: tuple[Usage, ...]) -> Replay:
        requested, allocated, reserved, inactive_split = self.top
        return Replay(
            phases=phases,
            requested=requested,
            allocated=allocated,
            reserved=reserved,
            inactive_split=inactive_split,
            fragmentation=self.fragmentation,
            segments=self.device.taken,
            released_segments=self.device.given_back,
            retries=self.device.retries,
            out_of_memory=self.failed,
            handed_out=tuple(self.handed_out),
        )

    def _run(self, start: int, end: int) -> list[int]:
        """Replay a range; its peaks. Written flat, for speed: this loop sees every event."""
        device, blocks, rounded, chunks = self.device, self.trace.blocks, self.rounded, self.chunks
        allocate, release, splits, handed_out = device.allocate, device.release, self.splits, self.handed_out
        requested, allocated, highest = self.requested, self.allocated, self.top[2]
        peak_requested, peak_allocated, peak_reserved = requested, allocated, device.reserved
        peak_split = device.reserved - allocated - device.idle if splits else 0
        for index, event in enumerate(self.trace.events[start:end], start):
            if event >= 0:
                size = rounded[event]
                if size == 0:
                    continue
                chunk = allocate(size)
                if chunk is None:
                    self.failed = index
                    break
                chunks[event] = chunk
                handed_out[event] = chunk.size
                allocated += chunk.size
                requested += blocks[event][0]
                if allocated > peak_allocated:
                    peak_allocated = allocated
                if requested > peak_requested:
                    peak_requested = requested
                if device.reserved > peak_reserved:
                    peak_reserved = device.reserved
                    if peak_reserved > highest:
                        highest = peak_reserved
                        self.fragmentation = highest - allocated
            else:
                chunk = chunks[~event]
                if chunk is None:
                    continue
                chunks[~event] = None
                allocated -= chunk.size
                requested -= blocks[~event][0]
                release(chunk)
            if splits and (split := device.reserved - allocated - device.idle) > peak_split:
                peak_split = split
        self.requested, self.allocated = requested, allocated
        found = [peak_requested, peak_allocated, peak_reserved, peak_split]
        self.top = list(map(max, self.top, found))
        return found


def _rounded(trace: Trace, device: CachingAllocator) -> list[int]:
    """The size of every block as the allocator rounds it; empty ones take nothing."""
    sizes = {block.bytes for block in trace.blocks}
    table = {size: device.rounded(size) if size else 0 for size in sizes}
    return [table[block.bytes] for block in trace.blocks]
