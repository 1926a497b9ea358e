"""Memory over a trace in few points: no peak is lost, and every point sums to its total."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.allocator.curve import LEAST, Sample, curve, spans
from planner.allocator.events import OUTSIDE, Block, Mark, Trace, peaks
from planner.result import OWNERS, PHASES


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Blocks come and go at random; no phases, or up to ten from the first event on, some of them without any."""
    blocks: list[Block] = []
    events: list[int] = []
    live: list[int] = []
    for free in draw(st.lists(st.booleans(), max_size=300)):
        if live and free:
            events.append(~live.pop(draw(st.integers(0, len(live) - 1))))
        else:
            live.append(len(blocks))
            events.append(len(blocks))
            blocks.append(Block(draw(st.integers(0, 1000)), draw(st.sampled_from(OWNERS)), "site"))
    starts = [0, *sorted(draw(st.lists(st.integers(0, len(events)), max_size=9)))] if draw(st.booleans()) else []
    marks = tuple(Mark(start, PHASES[number % 5], number // 5) for number, start in enumerate(starts))
    return Trace(tuple(blocks), tuple(events), (OUTSIDE,) * len(events), marks)


def levels(trace: Trace) -> list[int]:
    """Bytes after every event, the beginning first."""
    found = [0]
    for event in trace.events:
        found.append(found[-1] + (trace.blocks[event].bytes if event >= 0 else -trace.blocks[~event].bytes))
    return found


@given(traces(), st.integers(1, 50))
@settings(max_examples=150, deadline=None)
def test_every_phases_peak_is_kept_exactly(trace: Trace, points: int) -> None:
    samples, parts = curve(trace, points=points), spans(trace)

    for place, instant in enumerate(peaks(trace)):
        of_phase = [sample for sample in samples if sample.span == place and sample.number < parts[place].end]
        highest = max(of_phase, key=lambda sample: sample.memory.total)
        assert (highest.number, highest.memory) == (instant.index, instant.memory)


@given(traces(), st.integers(1, 50))
@settings(max_examples=150, deadline=None)
def test_samples_sum_to_what_is_live(trace: Trace, points: int) -> None:
    truth, samples = levels(trace), curve(trace, points=points)

    assert [sample.memory.total for sample in samples] == [truth[sample.number + 1] for sample in samples]
    assert min((count for sample in samples for count in sample.memory), default=0) >= 0
    assert [(sample.span, sample.number) for sample in samples] == sorted(
        (sample.span, sample.number) for sample in samples
    )
    assert samples[0].number == -1
    assert samples[-1].number == len(trace.events) - 1


@given(traces())
@settings(max_examples=50, deadline=None)
def test_sizes_that_an_allocator_handed_out(trace: Trace) -> None:
    handed_out = [block.bytes + 512 for block in trace.blocks]
    rounded = Trace(
        tuple(block._replace(bytes=block.bytes + 512) for block in trace.blocks),
        trace.events,
        trace.layers,
        trace.marks,
    )

    assert curve(trace, handed_out) == curve(rounded)


def test_a_long_trace_has_about_as_many_points_as_asked() -> None:
    blocks = tuple(Block(1 + number % 7, OWNERS[number % 7], "site") for number in range(50_000))
    events = tuple(event for number in range(50_000) for event in (number, ~number))
    marks = (Mark(0, "load", 0), Mark(10, "forward", 0), Mark(60_000, "backward", 0))
    trace = Trace(blocks, events, (OUTSIDE,) * len(events), marks)

    assert 2000 <= len(curve(trace)) <= 2000 + 3 * LEAST


@pytest.mark.parametrize("marks", [(), (Mark(0, "load", 0),)])
def test_an_empty_trace_has_one_sample(marks: tuple[Mark, ...]) -> None:
    (only,) = curve(Trace((), (), (), marks))

    assert isinstance(only, Sample)
    assert only.memory.total == 0
