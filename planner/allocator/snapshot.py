"""Traces as torch's memory snapshots, which torch's viewers open: https://pytorch.org/memory_viz.

Source: pytorch torch/cuda/memory.py, ``_snapshot`` (the keys), torch/cuda/_memory_viz.py and
torch/utils/viz/MemoryViz.js (what the viewers need of them). Sizes of events are as asked for; segments and blocks come
from a replay.
"""

import pickle
from bisect import bisect_left
from typing import Any

from planner.allocator.caching import CachingAllocator
from planner.allocator.config import Settings
from planner.allocator.events import Block, Trace
from planner.allocator.pools import USED, Chunk
from planner.allocator.recorded import OWN_KEY, Recorded, read
from planner.allocator.replay import DEFAULT, allocator

__all__ = ["Recorded", "read", "without_empty", "write"]

PROTOCOL = 4
"""The viewer's own unpickler reads 2 to 4."""

Entry = dict[str, Any]


def write(trace: Trace, settings: Settings = DEFAULT, *, capacity: int | None = None) -> bytes:
    """A pickle in the format of ``torch.cuda.memory._dump_snapshot``.

    One frame per event says whose a block is and which module asked. Empty blocks, which take no memory, are left out.
    When ``capacity`` runs out, the last event is torch's ``oom``.
    """
    trace = without_empty(trace)
    film = _Film(trace, allocator(settings, capacity))
    film.run()
    own = {
        "marks": [list(mark) for mark in trace.marks],
        "layers": list(trace.layers),
        "block_layers": [block.layer for block in trace.blocks],
    }
    snapshot = {"segments": film.segments(), "device_traces": [film.entries], OWN_KEY: own}
    return pickle.dumps(snapshot, protocol=PROTOCOL)


def without_empty(trace: Trace) -> Trace:
    """The same trace without blocks of no bytes."""
    if all(block.bytes for block in trace.blocks):
        return trace
    solid = [number for number, block in enumerate(trace.blocks) if block.bytes]
    numbers = {number: place for place, number in enumerate(solid)}
    kept = [index for index, event in enumerate(trace.events) if max(event, ~event) in numbers]
    events = [trace.events[index] for index in kept]
    return Trace(
        blocks=tuple(trace.blocks[number] for number in solid),
        events=tuple(numbers[event] if event >= 0 else ~numbers[~event] for event in events),
        layers=tuple(trace.layers[index] for index in kept),
        marks=tuple(mark._replace(index=bisect_left(kept, mark.index)) for mark in trace.marks),
    )


class _Film:
    """Entries of ``device_traces``, taken while a trace is replayed."""

    def __init__(self, trace: Trace, device: CachingAllocator) -> None:
        self.trace, self.device = trace, device
        self.entries: list[Entry] = []
        self.live: dict[int, Chunk] = {}
        self._logged = 0
        self._frames: dict[tuple[str, str], list[Entry]] = {}

    def run(self) -> None:
        """All events, or all up to the one for which there is no memory."""
        for event in self.trace.events:
            if event < 0:
                self._release(~event)
            elif not self._allocate(event):
                return

    def _allocate(self, number: int) -> bool:
        block = self.trace.blocks[number]
        chunk = self.device.allocate(self.device.rounded(block.bytes))
        self._log_segments(block)
        if chunk is None:
            free = (self.device.capacity or 0) - self.device.reserved
            self._add("oom", 0, block.bytes, block)
            self.entries[-1]["device_free"] = free
            return False
        self.live[number] = chunk
        self._add("alloc", chunk.address, block.bytes, block)
        return True

    def _release(self, number: int) -> None:
        block, chunk = self.trace.blocks[number], self.live.pop(number)
        for action in ("free_requested", "free_completed"):
            self._add(action, chunk.address, block.bytes, block)
        self.device.release(chunk)

    def _log_segments(self, block: Block) -> None:
        for event in self.device.log[self._logged :]:
            self._add(event.action, event.address, event.size, block)
        self._logged = len(self.device.log)

    def _add(self, action: str, address: int, size: int, block: Block) -> None:
        frames = self.frames(block)
        self.entries.append({"action": action, "addr": address, "size": size, "stream": 0, "frames": frames})

    def frames(self, block: Block) -> list[Entry]:
        """One frame, shared by all who have the same."""
        key = block.site, block.owner
        if key not in self._frames:
            self._frames[key] = [{"filename": block.site, "line": 0, "name": block.owner}]
        return self._frames[key]

    # ------------------------------------------------------------ the state at the end

    def segments(self) -> list[Entry]:
        """Every segment that is held, with its blocks; of an expandable one, every range with memory behind it."""
        numbers = {id(chunk): number for number, chunk in self.live.items()}
        chunks = [*self.live.values(), *self.device.small.cached(), *self.device.large.cached()]
        heads = sorted((chunk for chunk in chunks if _opens(chunk)), key=lambda chunk: chunk.address)
        return [self._segment(head, numbers) for head in heads]

    def _segment(self, head: Chunk, numbers: dict[int, int]) -> Entry:
        blocks = []
        chunk: Chunk | None = head
        while chunk is not None and chunk.mapped:
            blocks.append(self._block(chunk, numbers.get(id(chunk))))
            chunk = chunk.next
        allocated = sum(block["size"] for block in blocks if block["state"] != "inactive")
        return {
            "device": 0,
            "address": head.address,
            "total_size": sum(block["size"] for block in blocks),
            "allocated_size": allocated,
            "active_size": allocated,
            "requested_size": sum(block["requested_size"] for block in blocks),
            "stream": 0,
            "segment_type": "small" if head.pool.small else "large",
            "segment_pool_id": (0, 0),
            "is_expandable": self.device.settings.expandable_segments,
            "frames": [],
            "blocks": blocks,
        }

    def _block(self, chunk: Chunk, number: int | None) -> Entry:
        if number is None or chunk.state != USED:
            return {
                "address": chunk.address,
                "size": chunk.size,
                "requested_size": 0,
                "state": "inactive",
                "frames": [],
            }
        block = self.trace.blocks[number]
        return {
            "address": chunk.address,
            "size": chunk.size,
            "requested_size": block.bytes,
            "state": "active_allocated",
            "frames": self.frames(block),
        }


def _opens(chunk: Chunk) -> bool:
    return chunk.prev is None or not chunk.prev.mapped
