"""Recorded steps in any order."""

import pytest

from planner.allocator.events import OUTSIDE, Block, Mark, Trace, peaks
from planner.allocator.steps import sequence

MIB = 2**20


def recorded(*, held: bool) -> Trace:
    """Weights and a state that stay; activations of 1, 2 and 3 MiB in steps 0, 1 and 2, ``held`` until the next."""
    blocks = [Block(10 * MIB, "weights", "w"), Block(4 * MIB, "optimizer", "o")]
    events: list[int] = [0]
    marks = [Mark(0, "load", 0)]
    last: int | None = None
    for step in range(3):
        marks.append(Mark(len(events), "forward", step))
        blocks.append(Block((step + 1) * MIB, "activations", "a"))
        block = len(blocks) - 1
        events.append(block)
        if last is not None:
            events.append(~last)
        last = block if held else None
        if not held:
            events.append(~block)
        if step == 0:
            events.append(1)
    return Trace(tuple(blocks), tuple(events), (OUTSIDE,) * len(events), tuple(marks))


def tops(trace: Trace) -> list[int]:
    return [instant.memory.total // MIB for instant in peaks(trace) if instant.phase == "forward"]


def test_every_step_peaks_as_it_did() -> None:
    # The state of 4 comes when the activations of 1 are gone: 10 + 4; then 14 with 3, 2 and 3 more.
    assert tops(sequence(recorded(held=False), [2, 1, 2])) == [14, 17, 16, 17]


def test_what_one_step_leaves_the_next_one_releases() -> None:
    # Outputs of the step before are there until the new ones are: 14 + 3 + 1, 14 + 3 + 3, 14 + 2 + 3.
    found = sequence(recorded(held=True), [2, 2, 1])

    assert tops(found)[1:] == [14 + 3 + 1, 14 + 3 + 3, 14 + 2 + 3]
    assert len({event for event in found.events if event < 0}) == sum(event < 0 for event in found.events)


@pytest.mark.parametrize("held", [False, True])
def test_the_recorded_order_gives_the_recorded_trace(held: bool) -> None:
    trace = recorded(held=held)
    again = sequence(trace, [1, 2])

    assert peaks(again) == peaks(trace)
    assert [again.blocks[event] for event in again.events if event >= 0] == [
        trace.blocks[event] for event in trace.events if event >= 0
    ]
