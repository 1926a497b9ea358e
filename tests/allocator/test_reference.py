"""The replay held against a second allocator, written plainly: lists that are scanned, no order kept, no links."""

from hypothesis import given, settings

from planner.allocator.events import Trace
from planner.allocator.replay import Replay, replay
from planner.units import MIB
from tests.allocator.test_replay import traces

Piece = list[int]
"""Size, and the block that is in it; -1 is free."""


class Plain:
    """Segments as lists of pieces; every rule read off docs/how-it-works/allocator.md."""

    def __init__(self, capacity: int | None) -> None:
        self.capacity = capacity
        self.segments: list[tuple[bool, list[Piece]]] = []
        self.retries = 0

    @property
    def reserved(self) -> int:
        return sum(size for _, pieces in self.segments for size, _ in pieces)

    @property
    def allocated(self) -> int:
        return sum(size for _, pieces in self.segments for size, block in pieces if block >= 0)

    def allocate(self, block: int, size: int) -> bool:
        size = -(-size // 512) * 512
        small = size <= MIB
        if not self._place(block, size, small):
            length = 2 * MIB if small else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
            if not self._fits(length):
                self.retries += 1
                self.segments = [entry for entry in self.segments if [block for _, block in entry[1]] != [-1]]
                if not self._fits(length):
                    return False
            self.segments.append((small, [[length, -2]]))
            self._place(block, size, small, state=-2)
        return True

    def _fits(self, length: int) -> bool:
        return self.capacity is None or self.reserved + length <= self.capacity

    def _place(self, block: int, size: int, small: bool, state: int = -1) -> bool:
        """-2 marks the new segment, so that it is the one."""
        found = [
            (piece[0], number, place)
            for number, (kind, pieces) in enumerate(self.segments)
            for place, piece in enumerate(pieces)
            if kind == small and piece[1] == state and piece[0] >= size
        ]
        if not found:
            return False
        length, number, place = min(found)
        pieces = self.segments[number][1]
        rest = length - size
        if rest >= 512 if small else rest > MIB:
            pieces[place : place + 1] = [[size, block], [rest, -1]]
        else:
            pieces[place] = [length, block]
        return True

    def release(self, block: int) -> None:
        for _, pieces in self.segments:
            for piece in pieces:
                if piece[1] == block:
                    piece[1] = -1
            for place in range(len(pieces) - 1, 0, -1):
                if pieces[place][1] == pieces[place - 1][1] == -1:
                    pieces[place - 1][0] += pieces.pop(place)[0]


def plainly(trace: Trace, capacity: int | None) -> tuple[int, int, int, int | None]:
    device, allocated, reserved = Plain(capacity), 0, 0
    for index, event in enumerate(trace.events):
        if event < 0:
            device.release(~event)
        elif not device.allocate(event, trace.blocks[event].bytes):
            return allocated, reserved, device.retries, index
        allocated, reserved = max(allocated, device.allocated), max(reserved, device.reserved)
    return allocated, reserved, device.retries, None


def shortly(result: Replay) -> tuple[int, int, int, int | None]:
    return result.allocated, result.reserved, result.retries, result.out_of_memory


@settings(max_examples=100, deadline=None)
@given(trace=traces())
def test_both_say_the_same(trace: Trace) -> None:
    unlimited = replay(trace)

    assert shortly(unlimited) == plainly(trace, None)
    for capacity in range(unlimited.allocated // MIB * MIB, unlimited.reserved, 6 * MIB):
        assert shortly(replay(trace, capacity=capacity)) == plainly(trace, capacity)
