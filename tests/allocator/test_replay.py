"""The caching allocator's rules, each with its arithmetic; all sizes in MiB unless said otherwise."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.allocator.caching import CachingAllocator
from planner.allocator.capacity import RESOLUTION, smallest_capacity
from planner.allocator.config import Settings, parse
from planner.allocator.events import OUTSIDE, Block, Mark, Trace, peaks
from planner.allocator.pools import FREE, Chunk
from planner.allocator.replay import Replay, allocator, replay
from planner.units import MIB
from tests.allocator.steps import Model, train

PLAIN = Settings()
EXPANDABLE = Settings(expandable_segments=True)
COLLECTING = Settings(garbage_collection_threshold=0.5, memory_fraction=1.0)


def listed(*events: tuple[str, float]) -> Trace:
    """``("a", 3)`` allocates block a of 3 MiB, ``("a", 0)`` releases it."""
    numbers: dict[str, int] = {}
    blocks: list[Block] = []
    order: list[int] = []
    for name, size in events:
        if size:
            numbers[name] = len(blocks)
            order.append(len(blocks))
            blocks.append(Block(int(size * MIB), "activations", name))
        else:
            order.append(~numbers[name])
    return Trace(tuple(blocks), tuple(order), (OUTSIDE,) * len(order), (Mark(0, "forward", 0),))


def held(result: Replay) -> tuple[float, float, int]:
    """Peaks of allocated and reserved, and the number of segments."""
    return result.allocated / MIB, result.reserved / MIB, result.segments


# ---------------------------------------------------------------- rounding


@pytest.mark.parametrize(
    ("size", "options", "rounded"),
    [
        (1, "", 512),
        (511, "", 512),
        (512, "", 512),
        (513, "", 1024),
        (3 * MIB + 1, "", 3 * MIB + 512),
        # 4 divisions between 1024 and 2048 are 256 apart; up to 512 * 4 bytes they do not count
        (1200, "roundup_power2_divisions:4", 1536),
        (2049, "roundup_power2_divisions:4", 2560),
        (5 * MIB, "roundup_power2_divisions:4", 5 * MIB),
        (5 * MIB + 1, "roundup_power2_divisions:4", 6 * MIB),
        (8 * MIB, "roundup_power2_divisions:4", 8 * MIB),
        # below 256 MiB one division: no rounding; from there to 512 MiB two: 256, 384, 512
        (100 * MIB + 1, "roundup_power2_divisions:[256:1,512:2]", 100 * MIB + 512),
        (600 * MIB, "roundup_power2_divisions:[256:1,512:2]", 768 * MIB),
    ],
)
def test_rounding(size: int, options: str, rounded: int) -> None:
    assert allocator(parse(options)).rounded(size) == rounded


@pytest.mark.parametrize(
    ("size", "segment"), [(0.5, 2), (1, 2), (1.5, 20), (9.5, 20), (10, 10), (10.5, 12), (32.5, 34)]
)
def test_segments(size: float, segment: int) -> None:
    assert held(replay(listed(("a", size)))) == (size, segment, 1)


def test_empty_blocks_take_nothing() -> None:
    trace = Trace((Block(0, "activations", "a"),), (0, ~0), (OUTSIDE,) * 2, (Mark(0, "forward", 0),))

    assert held(replay(trace)) == (0, 0, 0)


# ---------------------------------------------------------------- fit, split, merge


def test_a_segment_is_shared() -> None:
    """8 + 8 + 4 fill one segment of 20; 2 more need another."""
    assert held(replay(listed(("a", 8), ("b", 8), ("c", 4), ("d", 2)))) == (22, 40, 2)


def test_small_and_large_do_not_mix() -> None:
    assert held(replay(listed(("a", 8), ("b", 1)))) == (9, 22, 2)


def test_a_rest_of_one_mib_is_not_split_off() -> None:
    """12 is free; 11 takes all of it, since the rest of 1 is not more than 1. 10.5 leaves 1.5."""
    assert replay(listed(("a", 12), ("a", 0), ("b", 11))).phases[0].allocated == 12 * MIB
    assert replay(listed(("a", 8), ("b", 11.5))).allocated == (8 + 12) * MIB
    assert replay(listed(("a", 8), ("b", 10.5))).allocated == (8 + 10.5) * MIB


def test_best_fit() -> None:
    """Free are 6 (between a and c) and 20 (a segment): 5 goes into the 6 and the 20 stay whole for 20."""
    trace = listed(("a", 8), ("b", 6), ("c", 6), ("d", 20), ("b", 0), ("d", 0), ("e", 5), ("f", 20))

    assert held(replay(trace)) == (40, 40, 2)


def test_neighbours_merge() -> None:
    """8, 8 and 4 released in any order are 20 again."""
    for order in ("abc", "acb", "bac", "bca", "cab", "cba"):
        trace = listed(("a", 8), ("b", 8), ("c", 4), *((name, 0) for name in order), ("d", 20))
        assert held(replay(trace)) == (20, 20, 1)


def test_a_hole_is_fragmentation() -> None:
    """a and c leave 14 free in a segment that b keeps, but no 14 at once: 12 needs a segment of its own.

    At the reserved peak 6 + 12 are allocated of 32. Split and free are the 14.
    """
    result = replay(listed(("a", 7), ("b", 6), ("c", 7), ("a", 0), ("c", 0), ("d", 12)))

    assert held(result) == (20, 32, 2)
    assert result.fragmentation == (32 - 18) * MIB
    assert result.inactive_split == 14 * MIB


# ---------------------------------------------------------------- a device that is full


HOLES = listed(("a", 20), ("b", 30), ("a", 0), ("b", 0), ("c", 40))
"""20 and 30 are cached when 40 is asked for: 90 in all, or 40 after both were given back."""


def test_without_a_cap_the_cache_stays() -> None:
    assert held(replay(HOLES)) == (50, 90, 3)


def test_a_full_device_gets_its_cache_back() -> None:
    result = replay(HOLES, capacity=89 * MIB)

    assert (result.completed, result.retries, result.released_segments) == (True, 1, 2)
    assert held(result) == (50, 50, 3)


def test_out_of_memory_names_the_event() -> None:
    result = replay(HOLES, capacity=49 * MIB)

    assert (result.out_of_memory, result.completed, result.retries) == (1, False, 1)
    assert result.allocated == 20 * MIB


def test_a_segment_in_use_cannot_be_given_back() -> None:
    """b keeps its 20 alive, so 20 + 12 are needed although 6 + 12 are allocated."""
    trace = listed(("a", 7), ("b", 6), ("c", 7), ("a", 0), ("c", 0), ("d", 12))

    assert not replay(trace, capacity=30 * MIB).completed
    assert replay(trace, capacity=32 * MIB).completed


# ---------------------------------------------------------------- max_split_size_mb


def test_oversize_blocks_are_not_split() -> None:
    """64 is not cut for 30, nor handed out whole for it."""
    trace = listed(("a", 64), ("a", 0), ("b", 30))

    assert held(replay(trace)) == (64, 64, 1)
    assert held(replay(trace, parse("max_split_size_mb:32"))) == (64, 64 + 30, 2)


def test_an_oversize_request_may_get_up_to_20_mib_more() -> None:
    """50 from a free 64 (14 more) is taken, 40 (24 more) is not."""
    options = parse("max_split_size_mb:32")

    assert held(replay(listed(("a", 64), ("a", 0), ("b", 50)), options)) == (64, 64, 1)
    assert held(replay(listed(("a", 64), ("a", 0), ("b", 40)), options)) == (64, 104, 2)


def test_oversize_blocks_go_first() -> None:
    """100 is full with 64 and 20 cached: 40 takes the place of the 64, and no retry is counted."""
    trace = listed(("a", 64), ("b", 20), ("a", 0), ("b", 0), ("c", 40))
    result = replay(trace, parse("max_split_size_mb:32"), capacity=100 * MIB)

    assert (result.retries, result.released_segments, result.reserved) == (0, 1, 84 * MIB)


# ---------------------------------------------------------------- garbage collection


def test_garbage_collection_prefers_the_old() -> None:
    """Reserved are 30 + 60 + 60 + 12 = 162 when 64 is asked for, more than 0.8 of 200: 2 or more must go.

    That is the pool's sixth search. a became free after the fourth, b for the second time after the fifth: ages 2 and
    1, mean 1.5, so a goes and b stays. 132 + 64 = 196 fit. Without collection all that is cached goes.
    """
    events = [("a", 30), ("b", 60), ("c", 60), ("d", 12), ("a", 0), ("b", 0), ("b", 60), ("b", 0), ("e", 64)]
    collected = replay(listed(*events), replace(COLLECTING, garbage_collection_threshold=0.8), capacity=200 * MIB)
    plain = replay(listed(*events), capacity=200 * MIB)

    assert (collected.retries, collected.released_segments, collected.reserved) == (0, 1, 196 * MIB)
    assert (plain.retries, plain.released_segments, plain.reserved) == (1, 2, 162 * MIB)


def test_garbage_collection_needs_a_memory_fraction() -> None:
    only = Settings(garbage_collection_threshold=0.5)

    assert replay(HOLES, only, capacity=100 * MIB) == replay(HOLES, capacity=100 * MIB)
    assert replay(HOLES, COLLECTING, capacity=100 * MIB).released_segments == 0
    assert (
        replay(HOLES, replace(COLLECTING, garbage_collection_threshold=0.4), capacity=100 * MIB).released_segments > 0
    )


def test_a_memory_fraction_is_a_cap() -> None:
    assert replay(HOLES, Settings(memory_fraction=0.5), capacity=180 * MIB).retries == 0
    assert replay(HOLES, Settings(memory_fraction=0.5), capacity=178 * MIB).retries == 1


# ---------------------------------------------------------------- expandable segments


def test_pages() -> None:
    """The large pool grows by 20, the small one by 2; 30 takes two pages and leaves 10, which 10 fills.

    Memory was taken twice: two pages at once, and one.
    """
    assert held(replay(listed(("a", 30), ("b", 10), ("c", 0.5)), EXPANDABLE)) == (40.5, 42, 2)


def test_an_expandable_segment_has_no_holes_at_its_end() -> None:
    """Lengths that grow: each 40, 60, 80 takes the addresses of the one before and two, three, four pages in all."""
    trace = listed(("a", 40), ("a", 0), ("b", 60), ("b", 0), ("c", 80), ("c", 0))

    assert held(replay(trace)) == (80, 180, 3)
    assert held(replay(trace, EXPANDABLE)) == (80, 80, 3)


def test_pages_are_given_back_one_by_one() -> None:
    """a's page is unmapped below b, although b keeps the segment; the plain allocator has two segments here."""
    trace = listed(("a", 20), ("b", 20), ("a", 0), ("c", 40))
    result = replay(trace, EXPANDABLE, capacity=60 * MIB)

    assert (result.completed, result.retries, result.reserved) == (True, 1, 60 * MIB)
    assert not replay(trace, EXPANDABLE, capacity=40 * MIB).completed


def test_a_page_in_part_in_use_stays() -> None:
    """Of two pages 15 + 10 + 15 are used; with the outer two free, no page is: 20 more do not fit into 40."""
    trace = listed(("a", 15), ("b", 10), ("c", 15), ("a", 0), ("c", 0), ("d", 20))

    assert not replay(trace, EXPANDABLE, capacity=50 * MIB).completed
    assert replay(trace, EXPANDABLE, capacity=60 * MIB).completed


# ---------------------------------------------------------------- phases


def test_phases_are_those_of_the_trace() -> None:
    trace = train(Model(6))
    result = replay(trace)

    assert [(usage.phase, usage.step) for usage in result.phases] == [(mark.phase, mark.step) for mark in trace.marks]
    assert [usage.requested for usage in result.phases] == [instant.memory.total for instant in peaks(trace)]
    assert max(usage.reserved for usage in result.phases) == result.reserved
    assert max(usage.allocated for usage in result.phases) == result.allocated == result.active


# ---------------------------------------------------------------- capacity


def test_the_smallest_capacity_of_holes() -> None:
    """20 and 30 live together, so 50; 40 alone comes after them."""
    assert smallest_capacity(HOLES) == 50 * MIB


def test_the_smallest_capacity_counts_what_cannot_be_given_back() -> None:
    trace = listed(("a", 7), ("b", 6), ("c", 7), ("a", 0), ("c", 0), ("d", 12))

    assert smallest_capacity(trace) == 32 * MIB
    assert smallest_capacity(trace, resolution=10 * MIB) == 40 * MIB
    assert smallest_capacity(listed()) == 0


# ---------------------------------------------------------------- laws

SIZES = st.one_of(st.integers(1, 4000), st.integers(1, 3 * MIB), st.integers(MIB, 80 * MIB))
CHOICES = [PLAIN, EXPANDABLE, parse("max_split_size_mb:32"), COLLECTING, parse("roundup_power2_divisions:4")]


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Allocations and releases in any order."""
    sizes = draw(st.lists(SIZES, min_size=1, max_size=40))
    events: list[int] = []
    alive: list[int] = []
    for number in range(len(sizes)):
        events.append(number)
        alive.append(number)
        while alive and draw(st.integers(0, 2)) == 0:
            events.append(~alive.pop(draw(st.integers(0, len(alive) - 1))))
    blocks = tuple(Block(size, "activations", "x") for size in sizes)
    return Trace(blocks, tuple(events), (OUTSIDE,) * len(events), (Mark(0, "forward", 0),))


@settings(max_examples=60, deadline=None)
@given(trace=traces(), options=st.sampled_from(CHOICES))
def test_requested_allocated_reserved(trace: Trace, options: Settings) -> None:
    result = replay(trace, options)

    assert result.requested <= result.allocated <= result.reserved
    assert result.completed
    assert result.reserved % (2 * MIB) == 0
    assert 0 <= result.fragmentation <= result.reserved


@settings(max_examples=30, deadline=None)
@given(trace=traces(), options=st.sampled_from(CHOICES))
def test_what_is_found_runs_and_no_step_less(trace: Trace, options: Settings) -> None:
    found = smallest_capacity(trace, options)

    assert replay(trace, options, capacity=found).completed
    assert replay(trace, options, capacity=found).reserved <= found
    assert not replay(trace, options, capacity=found - RESOLUTION).completed


@settings(max_examples=60, deadline=None)
@given(trace=traces(), options=st.sampled_from(CHOICES), tight=st.booleans())
def test_chunks_tile_their_segments(trace: Trace, options: Settings, tight: bool) -> None:
    """After any history: no two live chunks overlap, no two free ones touch, and the pools know exactly the free."""
    device = allocator(options, replay(trace, options).allocated if tight else None)
    live: dict[int, Chunk] = {}
    for event in trace.events:
        if event >= 0:
            chunk = device.allocate(device.rounded(trace.blocks[event].bytes))
            if chunk is None:
                break
            live[event] = chunk
        elif ~event in live:
            device.release(live.pop(~event))
        _consistent(device, list(live.values()))


def _consistent(device: CachingAllocator, live: list[Chunk]) -> None:
    cached = [*device.small.cached(), *device.large.cached()]
    spans = sorted((chunk.address, chunk.size) for chunk in (*live, *cached))
    assert all(one[0] + one[1] <= two[0] for one, two in pairwise(spans))
    assert sum(chunk.size for chunk in (*live, *cached)) == device.reserved
    for chunk in cached:
        assert chunk.state == FREE
        assert chunk.next is None or chunk.next.state != FREE
    if not device.settings.expandable_segments:
        assert device.idle == sum(chunk.size for chunk in cached if chunk.whole)
