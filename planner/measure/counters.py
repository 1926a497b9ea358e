"""Peaks by phase while real code runs: CUDA's own statistics, or torch's profiler on the CPU."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch

from planner.measure.driver import Driver
from planner.measure.task import Device, DeviceKind
from planner.measure.values import PhasePeak, Room, merged
from planner.result import Phase

PREFIX = "planner phase: "

Event = tuple[int, str, int]
"""Of the profiler: when (ns), what, and bytes that came or went."""


class Counter(Protocol):
    """Counts from ``begin`` to ``begin`` within ``counting``, whose list is filled when it ends."""

    def counting(self) -> AbstractContextManager[list[PhasePeak]]:
        """A stretch of phases, for instance one step."""

    def begin(self, phase: Phase) -> None:
        """A phase begins."""

    def settle(self) -> None:
        """Wait until the device has done everything that it was asked."""

    def forget(self) -> None:
        """Give back what the allocator keeps of tensors that are gone: no trainer loads as random weights are made."""

    def standing(self) -> PhasePeak:
        """What is allocated now, as the outcome of ``load``."""


class CpuCounter:
    """The running sum of every allocation and release that torch's CPU allocator reports to the profiler.

    The level is carried from stretch to stretch: the first one has to begin before the model is there. The profiler
    slows a step down a little.
    """

    def __init__(self) -> None:
        self.level = 0
        self._range: Any = None

    @contextmanager
    def counting(self) -> Iterator[list[PhasePeak]]:
        """See ``Counter``."""
        found: list[PhasePeak] = []
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
            yield found
            self._end()
        found.extend(merged(self._peaks(profiler)))

    def begin(self, phase: Phase) -> None:
        """See ``Counter``."""
        self._end()
        self._range = torch.profiler.record_function(PREFIX + phase)
        self._range.__enter__()

    def _end(self) -> None:
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None

    def settle(self) -> None:
        """See ``Counter``: a CPU does at once what it is asked."""

    def forget(self) -> None:
        """See ``Counter``: a CPU's allocator keeps nothing."""

    def standing(self) -> PhasePeak:
        """See ``Counter``."""
        return PhasePeak("load", self.level)

    def _peaks(self, profiler: Any) -> Iterator[PhasePeak]:
        """The highest level of each phase, in order; a phase begins where its range does."""
        phase: Any = None
        highest = self.level
        for _, name, count in sorted(self._events(profiler.profiler.kineto_results), key=lambda event: event[0]):
            if name == "[memory]":
                self.level += count
                highest = max(highest, self.level)
            elif name.startswith(PREFIX):
                if phase is not None:
                    yield PhasePeak(phase, highest)
                phase, highest = name.removeprefix(PREFIX), self.level
        if phase is not None:
            yield PhasePeak(phase, highest)

    def _events(self, results: Any) -> Iterator[Event]:
        """Everything that was seen, in no order."""
        yield from ((event.start_ns(), event.name(), event.nbytes()) for event in results.events())


class RankCounter(CpuCounter):
    """The same for a rank that reaches its neighbours by gloo, whose copies no GPU has: NCCL works in place.

    Only what the rank's own thread allocates outside of collectives counts, whoever releases it: the profiler does not
    see all that gloo's threads release. A place that is allocated anew has been released.
    """

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, int] = {}

    def _events(self, results: Any) -> Iterator[Event]:
        """See ``CpuCounter``; the changes of each place have to be followed in their order."""
        events = sorted(_flat(results.experimental_event_tree()), key=lambda pair: pair[0].start_time_ns)
        thread = next((event.start_tid for event, _ in events if event.name.startswith(PREFIX)), None)
        for event, sent in events:
            own = event.start_tid == thread and not sent
            yield event.start_time_ns, event.name, self._change(event, own) if event.name == "[memory]" else 0

    def _change(self, event: Any, own: bool) -> int:
        """By how much an allocation or a release changes the level."""
        place, size = event.extra_fields.ptr, event.extra_fields.alloc_size
        released = self._live.pop(place, 0)
        if size > 0 and own:
            self._live[place] = size
        return self._live.get(place, 0) - released


COLLECTIVE = "c10d::"


def _flat(events: Any) -> Iterator[tuple[Any, bool]]:
    """Every event of a tree, with whether it lies within a collective; trees are deep, so by a stack of our own."""
    waiting = [(event, False) for event in reversed(events)]
    while waiting:
        event, sent = waiting.pop()
        yield event, sent
        within = sent or event.name.startswith(COLLECTIVE)
        waiting.extend((child, within) for child in reversed(event.children))


class CudaCounter:
    """CUDA's own statistics, reset where a phase begins, once the device has caught up.

    ``others_bytes`` of the device belong to other processes.
    """

    def __init__(self, others_bytes: int = 0) -> None:
        self.others_bytes = others_bytes
        self._phase: Phase | None = None
        self._found: list[PhasePeak] = []

    @contextmanager
    def counting(self) -> Iterator[list[PhasePeak]]:
        """See ``Counter``."""
        self._found, self._phase = [], None
        found: list[PhasePeak] = []
        yield found
        self._end()
        found.extend(merged(self._found))

    def begin(self, phase: Phase) -> None:
        """See ``Counter``."""
        self._end()
        self._phase = phase
        torch.cuda.reset_peak_memory_stats()

    def _end(self) -> None:
        self.settle()
        if self._phase is not None:
            allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
            given_back = reserved - torch.cuda.memory_reserved()
            self._found.append(PhasePeak(self._phase, allocated, reserved, self._in_use() + given_back))
            self._phase = None

    def _in_use(self) -> int:
        """Bytes of the device that this process has now: what the allocator holds, and the context."""
        free, total = torch.cuda.mem_get_info()
        return int(total - free - self.others_bytes)

    def settle(self) -> None:
        """See ``Counter``."""
        torch.cuda.synchronize()

    def forget(self) -> None:
        """See ``Counter``."""
        torch.cuda.empty_cache()

    def standing(self) -> PhasePeak:
        """See ``Counter``."""
        return PhasePeak("load", torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), self._in_use())


def counter_for(device: DeviceKind, room: Room | None = None, ranks: int = 1) -> Counter:
    """How bytes are counted on a device, which had this ``room`` when it was empty, on one of so many ranks."""
    if device == "cuda":
        return CudaCounter(room.others_bytes or 0 if room else 0)
    return RankCounter() if ranks > 1 else CpuCounter()


def cuda_here() -> Device | None:
    """The CUDA device that this process uses, if any: the first, or a rank's own."""
    if not torch.cuda.is_available():
        return None
    found, count = torch.cuda.get_device_properties(None), torch.cuda.device_count()
    capability = (found.major, found.minor)
    return Device("cuda", found.name, found.total_memory, capability, found.multi_processor_count, count)


def cuda_room(driver: Driver) -> Room:
    """The device with a context and nothing else; ``driver`` was asked before there was one."""
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    others = driver.used_on(str(getattr(torch.cuda.get_device_properties(None), "uuid", "")))
    return Room(total, free, max(total - free - (others or 0), 0), others)
