"""Recorded steps and findings as bytes: a line of JSON and flat arrays, compressed. Reading runs no foreign code."""

import json
import sys
import zlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from planner.allocator.events import Block, Instant, Mark, Trace
from planner.allocator.replay import Replay, Usage
from planner.result import ALL_PHASES, OWNERS, Estimate, Memory, Parameters, Peak
from planner.trace.cache import Kind
from planner.trace.judgement import Finding, Traced
from planner.trace.layers import Depth

LEVEL = 3
"""Of zlib. Higher ones win little and cost more time than a reader saves."""

BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, zlib.error)
"""What reading a damaged entry may run into."""


Value = TypeVar("Value")
Name = TypeVar("Name", bound=str)


class Judged(NamedTuple):
    """A finding without the steps that it rests on, which have an entry of their own."""

    estimate: Estimate
    replay: Replay
    peak: Instant

    def on(self, traced: Traced) -> Finding:
        """The finding."""
        return Finding(self.estimate, traced, self.replay, self.peak)


# ---------------------------------------------------------------- recorded steps


def _from_traced(value: Traced) -> bytes:
    """Sites and owners stand once each; a block names its pair by number."""
    trace = value.trace
    kinds = {kind: number for number, kind in enumerate(dict.fromkeys((b.owner, b.site) for b in trace.blocks))}
    facts = {
        "kinds": list(kinds),
        "marks": trace.marks,
        "parameters": value.parameters,
        "managed_bytes": value.managed_bytes,
        "depth": value.depth,
    }
    return _pack(
        facts,
        array("q", [block.bytes for block in trace.blocks]),
        array("i", [kinds[block.owner, block.site] for block in trace.blocks]),
        array("i", [block.layer for block in trace.blocks]),
        array("i", trace.events),
        array("i", trace.layers),
    )


def _traced(content: bytes) -> Traced:
    facts, sizes, kinds, places, events, layers = _unpack(content)
    names = [(_one_of(OWNERS, owner), str(site)) for owner, site in facts["kinds"]]
    owners, sites = [name[0] for name in names], [name[1] for name in names]
    columns = (sizes, map(owners.__getitem__, kinds), map(sites.__getitem__, kinds), places)
    blocks = tuple(map(Block._make, zip(*columns, strict=True)))
    marks = tuple(Mark(index, _one_of(ALL_PHASES, phase), step) for index, phase, step in facts["marks"])
    if len(layers) != len(events) or (events and not -len(blocks) <= min(events) <= max(events) < len(blocks)):
        raise ValueError("events without blocks")
    trace = Trace(blocks, tuple(events), tuple(layers), marks)
    return Traced(trace, Parameters(*facts["parameters"]), int(facts["managed_bytes"]), Depth(*facts["depth"]))


# ---------------------------------------------------------------- findings


def _from_judged(value: Judged) -> bytes:
    """Everything but the sizes that were handed out is small."""
    estimate, replay = value.estimate, value.replay
    facts = {
        "estimate": [estimate.evidence, estimate.parameters, list(estimate.phases.items()), asdict(estimate.peak)],
        "replay": {field.name: getattr(replay, field.name) for field in fields(replay) if field.name != "handed_out"},
        "peak": value.peak,
    }
    return _pack(facts, array("q", replay.handed_out))


def _judged(content: bytes) -> Judged:
    facts, handed_out = _unpack(content)
    evidence, parameters, phases, peak = facts["estimate"]
    by_phase = MappingProxyType({_one_of(ALL_PHASES, name): Memory(*owners) for name, owners in phases})
    replayed = {**facts["replay"], "phases": tuple(Usage(*usage) for usage in facts["replay"]["phases"])}
    phase, step, index, owners = facts["peak"]
    return Judged(
        Estimate(evidence, Parameters(*parameters), by_phase, Peak(**peak)),
        Replay(**replayed, handed_out=tuple(handed_out)),
        Instant(_one_of(ALL_PHASES, phase), step, index, Memory(*owners)),
    )


# ---------------------------------------------------------------- bytes


def _pack(facts: dict[str, Any], *arrays: "array[int]") -> bytes:
    head = json.dumps({**facts, "arrays": [[one.typecode, len(one)] for one in arrays]}).encode()
    return zlib.compress(b"\n".join([head, b"".join(map(_little_endian, arrays))]), LEVEL)


def _unpack(content: bytes) -> list[Any]:
    """The facts, then the arrays. zlib's checksum tells damage."""
    reader = zlib.decompressobj()
    data = reader.decompress(content)
    if not reader.eof or reader.unused_data:
        raise ValueError("cut short, or more than an entry")
    head, _, rest = data.partition(b"\n")
    facts, view = json.loads(head), memoryview(rest)
    found: list[Any] = [facts]
    for typecode, length in facts["arrays"]:
        one = array(_one_of(("q", "i"), typecode))
        one.frombytes(view[: length * one.itemsize])
        view = view[length * one.itemsize :]
        if sys.byteorder == "big":
            one.byteswap()
        if len(one) != length:
            raise ValueError("fewer numbers than announced")
        found.append(one)
    return found


def _little_endian(numbers: "array[int]") -> bytes:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _one_of(names: Sequence[Name], name: object) -> Name:
    """The very name, so that equal texts are one object."""
    return names[names.index(name)]


def _whole(read: Callable[[bytes], Value]) -> Callable[[bytes], Value]:
    """``read``, which raises ``ValueError`` for whatever is wrong with an entry."""

    def reading(content: bytes) -> Value:
        try:
            return read(content)
        except BROKEN as error:
            raise ValueError(f"a damaged entry: {error}") from error

    return reading


TRACED = Kind("trace", _from_traced, _whole(_traced))
JUDGED = Kind("finding", _from_judged, _whole(_judged))
