"""Snapshots written and read: the same events, torch's viewers take them, and nothing in them is ever run."""

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.allocator.config import Settings
from planner.allocator.events import OUTSIDE, Block, Mark, Trace
from planner.allocator.recorded import UNKNOWN
from planner.allocator.replay import replay
from planner.allocator.snapshot import read, without_empty, write
from planner.errors import BrokenInput, UsageError
from planner.units import MIB
from tests.allocator.steps import Model, train

MODEL = train(Model(5))
EXPANDABLE = Settings(expandable_segments=True)


def plain(data: bytes) -> dict[str, Any]:
    loaded: dict[str, Any] = pickle.loads(data)
    return loaded


def entry(action: str, address: int, size: int) -> dict[str, Any]:
    return {"action": action, "addr": address, "size": size, "stream": 0}


def snapshot(*entries: dict[str, Any], segments: tuple[dict[str, Any], ...] = ()) -> bytes:
    return pickle.dumps({"device_traces": [list(entries)], "segments": list(segments)})


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("options", [Settings(), EXPANDABLE], ids=["plain", "expandable"])
def test_the_same_events_come_back(options: Settings) -> None:
    recorded = read(write(MODEL, options))

    assert recorded.trace == MODEL
    assert recorded.reserved == replay(MODEL, options).reserved


@settings(max_examples=25, deadline=None)
@given(layers=st.integers(1, 4), checkpointing=st.booleans(), foreach=st.booleans(), steps=st.integers(1, 3))
def test_any_step_comes_back(layers: int, checkpointing: bool, foreach: bool, steps: int) -> None:
    trace = train(Model(layers, checkpointing=checkpointing, foreach=foreach, steps=steps))

    assert read(write(trace)).trace == trace


def test_empty_blocks_are_left_out() -> None:
    """0 and 2 stay; the mark before the empty block's release now stands before the release of 0."""
    blocks = (Block(8, "weights", "w"), Block(0, "logits", "l"), Block(4, "logits", "l"))
    trace = Trace(blocks, (0, 1, 2, ~1, ~0), (OUTSIDE,) * 5, (Mark(0, "load", 0), Mark(3, "loss", 0)))
    left = Trace((blocks[0], blocks[2]), (0, 1, ~0), (OUTSIDE,) * 3, (Mark(0, "load", 0), Mark(2, "loss", 0)))

    assert without_empty(trace) == left
    assert read(write(trace)).trace == left


def test_running_out_of_memory_is_the_last_event() -> None:
    blocks = (Block(20 * MIB, "weights", "w"), Block(30 * MIB, "weights", "w"))
    trace = Trace(blocks, (0, 1), (OUTSIDE,) * 2, (Mark(0, "load", 0),))
    data = write(trace, capacity=40 * MIB)

    last = plain(data)["device_traces"][0][-1]
    assert (last["action"], last["size"], last["device_free"]) == ("oom", 30 * MIB, 20 * MIB)
    assert read(data).out_of_memory == 1
    assert read(data).trace.events == (0,)


# ---------------------------------------------------------------- the format


@pytest.mark.parametrize("options", [Settings(), EXPANDABLE], ids=["plain", "expandable"])
def test_segments_and_events_agree(options: Settings) -> None:
    """Blocks tile their segments, and what the events leave alive is what the segments hold."""
    loaded = plain(write(MODEL, options))
    alive: dict[int, int] = {}
    held = 0
    for event in loaded["device_traces"][0]:
        if event["action"] == "alloc":
            alive[event["addr"]] = event["size"]
        elif event["action"] == "free_completed":
            assert alive.pop(event["addr"]) == event["size"]
        elif event["action"] in ("segment_alloc", "segment_map"):
            held += event["size"]
    active: dict[int, int] = {}
    for segment in loaded["segments"]:
        assert segment["total_size"] == sum(block["size"] for block in segment["blocks"])
        assert segment["blocks"][0]["address"] == segment["address"]
        active |= {b["address"]: b["requested_size"] for b in segment["blocks"] if b["state"] != "inactive"}

    assert active == alive
    assert sum(segment["total_size"] for segment in loaded["segments"]) == held


def test_frames_say_whose_and_where() -> None:
    first = next(event for event in plain(write(MODEL))["device_traces"][0] if event["action"] == "alloc")

    assert first["frames"] == [{"filename": "embedding", "line": 0, "name": "weights"}]


def test_protocol_4() -> None:
    assert write(MODEL)[:2] == b"\x80\x04"


@pytest.mark.torch
@pytest.mark.parametrize("options", [Settings(), EXPANDABLE], ids=["plain", "expandable"])
def test_torch_opens_it(options: Settings) -> None:
    """``segsum`` asserts that sizes add up; ``trace`` names every block by its segment; the plots embed the data."""
    viewer = pytest.importorskip("torch.cuda._memory_viz")
    loaded = plain(write(MODEL, options))

    assert "total_reserved" in viewer.segsum(loaded)
    text = viewer.trace(loaded)
    assert f"{len(loaded['device_traces'][0])} entries" in text
    assert "base64" in viewer.trace_plot(loaded)
    assert "base64" in viewer.segment_plot(loaded)
    assert "weights" in viewer.memory(loaded, format_flamegraph=lambda lines: lines)


# ---------------------------------------------------------------- what a device records


def test_blocks_from_before_the_recording() -> None:
    """100 (at 16) was alive and is freed; 7 (at 64) is alive throughout; 5 comes and goes; 9 comes and stays."""
    segment = {
        "device": 0,
        "address": 0,
        "total_size": 2048,
        "blocks": [
            {"size": 64, "state": "inactive"},
            {"size": 64, "requested_size": 7, "state": "active_allocated", "frames": []},
            {"size": 64, "requested_size": 9, "state": "active_pending_free", "frames": []},
            {"size": 1856, "state": "inactive"},
        ],
    }
    data = snapshot(
        entry("alloc", 256, 5),
        entry("free_requested", 16, 100),
        entry("free_completed", 16, 100),
        entry("alloc", 128, 9),
        entry("free_completed", 256, 5),
        segments=(segment,),
    )
    trace = read(data).trace

    assert [block.bytes for block in trace.blocks] == [100, 7, 5, 9]
    assert trace.events == (0, 1, 2, ~0, 3, ~2)
    assert {block.owner for block in trace.blocks} == {UNKNOWN}
    assert trace.marks == ()


def test_reserved_is_counted_back_from_the_end() -> None:
    """8 at the end; before the 4 were freed 12, before the 6 came 6."""
    segment = {"device": 0, "address": 0, "total_size": 8, "blocks": []}
    data = snapshot(entry("segment_alloc", 0, 6), entry("segment_free", 99, 4), segments=(segment,))

    assert read(data).reserved == 12


def test_frames_of_python_become_sites() -> None:
    frame = {"filename": "model.py", "line": 7, "name": "forward"}

    assert read(snapshot({**entry("alloc", 0, 5), "frames": [frame]})).trace.blocks[0].site == "model.py:7 forward"


def test_a_replay_needs_no_marks() -> None:
    result = replay(read(snapshot(entry("alloc", 0, 5 * MIB))).trace)

    assert (result.phases, result.allocated, result.reserved) == ((), 5 * MIB, 20 * MIB)


def test_devices() -> None:
    both = {"device_traces": [[entry("alloc", 0, 5)], [entry("alloc", 0, 6)]], "segments": []}

    assert read(pickle.dumps(both), device=1).trace.blocks[0].bytes == 6
    with pytest.raises(UsageError, match="devices 0, 1"):
        read(pickle.dumps(both))
    with pytest.raises(UsageError, match="devices 0 to 1"):
        read(pickle.dumps(both), device=2)


# ---------------------------------------------------------------- hostile and broken files


WITNESS = Path(tempfile.gettempdir()) / f"finetune-planner-was-here-{os.getpid()}"


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (WITNESS,)


HOSTILE = {
    "a function": pickle.dumps(Hostile()),
    "a function inside": pickle.dumps({"device_traces": [[Hostile()]], "segments": []}),
    "a builtin": b"cbuiltins\neval\n(S'1'\ntR.",
    "a class of ours": pickle.dumps({"device_traces": [[Block(1, "weights", "w")]], "segments": []}),
    "something outside": b"\x80\x04\x8c\x01xQ.",
}

BROKEN = {
    "empty": b"",
    "text": b"hello",
    "truncated": write(MODEL)[:-100],
    "a list": pickle.dumps([1]),
    "no segments": pickle.dumps({"device_traces": []}),
    "no size": pickle.dumps({"device_traces": [[{"action": "alloc", "addr": 1}]], "segments": []}),
    "a negative size": snapshot(entry("alloc", 0, -5)),
    "a size of text": pickle.dumps({"device_traces": [[entry("alloc", 0, 5) | {"size": "5"}]], "segments": []}),
    "an action of its own": snapshot(entry("explode", 0, 5)),
    "two at one address": snapshot(entry("alloc", 0, 5), entry("alloc", 0, 5)),
    "no mark": pickle.dumps(
        plain(write(MODEL)) | {"finetune_planner": {"marks": [[0]], "layers": [], "block_layers": []}}
    ),
}


@pytest.mark.parametrize("data", [*HOSTILE.values(), *BROKEN.values()], ids=[*HOSTILE, *BROKEN])
def test_one_line_and_nothing_runs(data: bytes) -> None:
    with pytest.raises(BrokenInput, match=r"^not a CUDA memory snapshot: [^\n]{1,200}$"):
        read(data)

    assert not WITNESS.exists()


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 4000), byte=st.integers(0, 255))
def test_any_damage_is_told_in_one_line(place: int, byte: int) -> None:
    data = bytearray(write(train(Model(1, steps=1))))
    data[place % len(data)] = byte
    message = ""
    try:
        read(bytes(data))
    except BrokenInput as error:
        message = str(error)

    assert "\n" not in message
