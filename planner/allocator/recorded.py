"""Torch's memory snapshots, read: what a real device recorded, as a trace.

Source: pytorch c10/cuda/CUDACachingAllocator.h, ``TraceEntry``, ``SegmentInfo``, ``BlockInfo``; torch/csrc/cuda/
memory_snapshot.cpp writes them under the keys used here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, cast

from planner.allocator.events import OUTSIDE, Block, Mark, Trace
from planner.allocator.plainpickle import Reader, load_plain
from planner.errors import BrokenInput, UsageError
from planner.result import ALL_PHASES, OWNERS, Phase

WHAT = "CUDA memory snapshot"

OWN_KEY = "finetune_planner"
"""Beside torch's keys in the snapshots that we write: marks and layers, so that they come back."""

UNKNOWN = "unknown"
"""Owner of blocks of which a recording does not say whose they are."""

GROWS, SHRINKS = frozenset({"segment_alloc", "segment_map"}), frozenset({"segment_free", "segment_unmap"})
PASSED_OVER = frozenset({"free_requested", "snapshot", "workspace_snapshot", "user_defined", "oom"})


@dataclass(frozen=True, slots=True)
class Recorded:
    """A trace from a device, and what its allocator had reserved at most while it recorded."""

    trace: Trace
    reserved: int
    out_of_memory: int
    """How often a request failed."""
    expandable: bool = False
    """Whether its segments grew (``expandable_segments``)."""


class _Entry(NamedTuple):
    action: str
    address: int
    size: int
    owner: str
    site: str


def read(data: bytes, *, device: int | None = None) -> Recorded:
    """What ``torch.cuda.memory._dump_snapshot`` has written, as one stream of events.

    A block that was alive when recording began is allocated first, in order of address: such are blocks that are freed
    without having been allocated, and those of ``segments`` that no event mentions. A block is released when its free
    is completed. Owners are ours where we wrote the file, otherwise unknown, and there are no marks.
    """
    top = Reader(load_plain(data, WHAT), WHAT)
    traces = top.get("device_traces").each()
    chosen = _device([len(entries.of(list)) for entries in traces], device)
    entries = _entries(traces[chosen]) if traces else []
    segments = [segment for segment in top.get("segments").each() if segment.get("device").of(int) == chosen]
    trace = _trace(entries, [block for segment in segments for block in _alive(segment)])
    if top.has(OWN_KEY):
        trace = _with_own(trace, top.get(OWN_KEY))
    reserved = _reserved(entries, sum(segment.get("total_size").size for segment in segments))
    actions = [entry.action for entry in entries]
    return Recorded(trace, reserved, actions.count("oom"), "segment_map" in actions)


def _device(lengths: list[int], wanted: int | None) -> int:
    """The device that was asked for, or the only one that recorded anything."""
    if wanted is not None:
        if wanted not in range(len(lengths)):
            raise UsageError(f"device {wanted}: the snapshot has devices 0 to {len(lengths) - 1}")
        return wanted
    busy = [number for number, length in enumerate(lengths) if length]
    if len(busy) > 1:
        raise UsageError(f"the snapshot has events of devices {', '.join(map(str, busy))}: say which one to read")
    return busy[0] if busy else 0


def _entries(trace: Reader) -> list[_Entry]:
    """All entries of a device; frames, which many share, are read once."""
    sources: dict[int, tuple[str, str]] = {}
    found = []
    for index, raw in enumerate(trace.of(list)):
        if _sound(raw):
            frames = id(raw.get("frames"))
            if frames not in sources:
                sources[frames] = _source(Reader(raw, WHAT, f"{trace.path}[{index}]"))
            found.append(_Entry(raw["action"], raw.get("addr", 0), raw["size"], *sources[frames]))
        else:
            found.append(_entry(Reader(raw, WHAT, f"{trace.path}[{index}]")))
    return found


def _sound(raw: object) -> bool:
    """Whether an entry has what it needs. The slow path says what is wrong with one that has not."""
    if type(raw) is not dict:
        return False
    action, address, size = raw.get("action"), raw.get("addr", 0), raw.get("size")
    return type(action) is str and type(address) is int and type(size) is int and address >= 0 and size >= 0


def _entry(reader: Reader) -> _Entry:
    address = reader.get("addr").size if reader.has("addr") else 0
    return _Entry(reader.get("action").of(str), address, reader.get("size").size, *_source(reader))


def _source(reader: Reader) -> tuple[str, str]:
    """Owner and site from the innermost frame."""
    frames = reader.get("frames").each() if reader.has("frames") else []
    if not frames:
        return UNKNOWN, ""
    name, file = frames[0].get("name").of(str), frames[0].get("filename").of(str)
    line = frames[0].get("line").of(int)
    return (name, file) if name in OWNERS and line == 0 else (UNKNOWN, f"{file}:{line} {name}")


def _alive(segment: Reader) -> Iterator[_Entry]:
    """Blocks of a segment that are in use at the end; addresses are counted where old snapshots leave them out."""
    address = segment.get("address").size
    for block in segment.get("blocks").each():
        if block.get("state").of(str) != "inactive":
            size = block.get("requested_size").size if block.has("requested_size") else block.get("size").size
            yield _Entry("alive", address, size, *_source(block))
        address += block.get("size").size


# ---------------------------------------------------------------- events


def _trace(entries: list[_Entry], alive: list[_Entry]) -> Trace:
    blocks: list[Block] = []
    events: list[int] = []
    live: dict[int, int] = {}
    known = GROWS | SHRINKS | PASSED_OVER
    for entry in [*_earlier(entries, alive), *entries]:
        if entry.action in ("alloc", "alive"):
            if entry.address in live:
                raise BrokenInput(f"not a {WHAT}: address {entry.address} is allocated twice")
            live[entry.address] = len(blocks)
            events.append(len(blocks))
            blocks.append(Block(entry.size, entry.owner, entry.site))
        elif entry.action == "free_completed":
            events.append(~live.pop(entry.address))
        elif entry.action not in known:
            raise BrokenInput(f"not a {WHAT}: unknown action {entry.action[:40]!r}")
    return Trace(tuple(blocks), tuple(events), (OUTSIDE,) * len(events), ())


def _earlier(entries: list[_Entry], alive: list[_Entry]) -> list[_Entry]:
    """What was there before the first event."""
    live: set[int] = set()
    found: dict[int, _Entry] = {}
    for entry in entries:
        if entry.action == "alloc":
            live.add(entry.address)
        elif entry.action == "free_completed":
            if entry.address not in live:
                found[entry.address] = entry._replace(action="alive")
            live.discard(entry.address)
    mentioned = {entry.address for entry in entries if entry.action in ("alloc", "free_completed")}
    found |= {entry.address: entry for entry in alive if entry.address not in mentioned}
    return [found[address] for address in sorted(found)]


def _reserved(entries: list[_Entry], at_the_end: int) -> int:
    """The most that was reserved, counted back from the end."""
    level = most = at_the_end
    for entry in reversed(entries):
        if entry.action in GROWS:
            level -= entry.size
        elif entry.action in SHRINKS:
            level += entry.size
        most = max(most, level)
    return most


# ---------------------------------------------------------------- what we add


def _with_own(trace: Trace, own: Reader) -> Trace:
    """Marks and layers, when they belong to these events; after an ``oom`` there are fewer events than layers."""
    layers, block_layers = own.get("layers").ints(), own.get("block_layers").ints()
    if len(layers) < len(trace.events) or len(block_layers) < len(trace.blocks):
        raise BrokenInput(f"not a {WHAT}: its layers do not belong to its events")
    marks = [_mark(mark) for mark in own.get("marks").each()]
    blocks = tuple(block._replace(layer=layer) for block, layer in zip(trace.blocks, block_layers, strict=False))
    kept = tuple(mark for mark in marks if mark.index <= len(trace.events))
    return Trace(blocks, trace.events, tuple(layers[: len(trace.events)]), kept)


def _mark(reader: Reader) -> Mark:
    members = reader.each()
    if len(members) != 3 or members[1].of(str) not in ALL_PHASES:
        raise BrokenInput(f"not a {WHAT}: {reader.path} is no mark")
    return Mark(members[0].size, cast(Phase, members[1].of(str)), members[2].size)
