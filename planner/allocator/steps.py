"""Steps of a recorded trace in another order and number: a run of ragged batches from one step of each length."""

from collections.abc import Sequence

from planner.allocator.events import Mark, Trace


def sequence(trace: Trace, order: Sequence[int]) -> Trace:
    """The recorded steps, first 0 (which allocates what stays), then ``order``, which may name a step again and again.

    What a step leaves alive for the next one (outputs that a caller still holds) is released by whichever step comes
    next. Blocks that no step releases belong to the step that made them first. Step 0 itself cannot come again.

    >>> from planner.allocator.events import Block
    >>> marks = (Mark(0, "forward", 0), Mark(1, "forward", 1))
    >>> one = Trace((Block(9, "weights", "w"), Block(5, "logits", "l")), (0, 1, ~1), (-1, -1, -1), marks)
    >>> sequence(one, [1, 1]).events
    (0, 2, -3, 3, -4)
    """
    return _Sequence(trace).written(order)


class _Sequence:
    """Writes steps one after the other; ``_held`` are the blocks that the last one left for the next."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.blocks = list(trace.blocks)
        self.events: list[int] = []
        self.layers: list[int] = []
        self.marks: list[Mark] = []
        self._held: list[int] = []
        self._ranges = self._steps()
        self._left = [self._left_by(step) for step in range(len(self._ranges))]

    def written(self, order: Sequence[int]) -> Trace:
        """Step 0 as recorded, then every step of ``order``."""
        self._append(0, 0, {})
        self._held = list(self._left[0])
        for number, step in enumerate(order, 1):
            before = dict(zip(self._left[step - 1], self._held, strict=True))
            renamed = self._append(step, number, before)
            self._held = [renamed[block] for block in self._left[step]]
        return Trace(tuple(self.blocks), tuple(self.events), tuple(self.layers), tuple(self.marks))

    def _steps(self) -> list[tuple[int, int]]:
        """The half-open range of events of every step."""
        ranges: dict[int, tuple[int, int]] = {}
        for mark, start, end in self.trace.phase_ranges():
            ranges[mark.step] = (ranges.get(mark.step, (start, end))[0], end)
        return [ranges[step] for step in sorted(ranges)]

    def _left_by(self, step: int) -> list[int]:
        """Blocks that a step allocates and the next one releases, in the order in which it allocates them.

        What the first step keeps and the second does not release stays for good; a later step keeps nothing for good.
        """
        start, end = self._ranges[step]
        within = self.trace.events[start:end]
        born = [event for event in within if event >= 0]
        gone = {~event for event in within if event < 0}
        if step == 0 and len(self._ranges) > 1:
            after = slice(*self._ranges[1])
            return sorted({~event for event in self.trace.events[after] if event < 0}.intersection(born))
        return [] if step == 0 else [block for block in born if block not in gone]

    def _append(self, step: int, number: int, before: dict[int, int]) -> dict[int, int]:
        """One step with blocks of its own; ``before`` are new names of what the recorded step before it had left."""
        start, end = self._ranges[step]
        renamed, offset = dict(before), len(self.events)
        for event in self.trace.events[start:end]:
            block = max(event, ~event)
            if event >= 0 and number > 0:
                renamed[block] = len(self.blocks)
                self.blocks.append(self.trace.blocks[block])
            block = renamed.get(block, block)
            self.events.append(block if event >= 0 else ~block)
        self.layers += self.trace.layers[start:end]
        self.marks += [
            Mark(mark.index - start + offset, mark.phase, number) for mark in self.trace.marks if mark.step == step
        ]
        return renamed
