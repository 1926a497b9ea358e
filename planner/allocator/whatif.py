"""A recorded run under other settings of the caching allocator: what it would have reserved, and the least it needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from planner.allocator.capacity import RESOLUTION, smallest_capacity
from planner.allocator.config import Settings, parse
from planner.allocator.events import Trace
from planner.allocator.recorded import Recorded
from planner.allocator.replay import Replay, replay

EXPANDABLE = "expandable_segments:True"
OTHERS = (EXPANDABLE, "max_split_size_mb:256", "roundup_power2_divisions:8")
"""What people try, as PYTORCH_ALLOC_CONF writes it."""

PARTS = 400
"""A capacity is looked for in steps of this part of the reserved peak."""


class Tried(NamedTuple):
    """One choice of settings, as PYTORCH_ALLOC_CONF writes it; ``capacity``: bytes that the device must give."""

    text: str
    replay: Replay
    capacity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """``requested``: the most that was asked for at once while recording. ``tried``: as recorded, then others."""

    recorded: Recorded
    requested: int
    tried: tuple[Tried, ...]


def what_if(recorded: Recorded, text: str = "", tell: Callable[[str], None] = lambda _text: None) -> WhatIf:
    """Replay a recording under the settings ``text``, or those that it shows to have had, and under others.

    ``tell`` hears which settings are being tried.
    """
    own = text or (EXPANDABLE if recorded.expandable else "")
    tried = []
    for choice in dict.fromkeys((own, "", *OTHERS)):
        tell(choice or "the allocator's defaults")
        tried.append(_tried(recorded.trace, choice))
    return WhatIf(recorded=recorded, requested=requested_peak(recorded.trace), tried=tuple(tried))


def _tried(trace: Trace, text: str) -> Tried:
    settings = parse(text) if text else Settings()
    free = replay(trace, settings)
    resolution = max(1, free.reserved // PARTS // RESOLUTION) * RESOLUTION
    return Tried(text, free, smallest_capacity(trace, settings, resolution=resolution))


def requested_peak(trace: Trace) -> int:
    """The most that is alive at once, as it was asked for (bytes).

    >>> from planner.allocator.events import OUTSIDE, Block
    >>> blocks = Block(8, "weights", ""), Block(4, "logits", "")
    >>> requested_peak(Trace(blocks, (0, ~0, 1), (OUTSIDE,) * 3, ()))
    8
    """
    level = most = 0
    for event in trace.events:
        level += _change(trace.blocks, event)
        most = max(most, level)
    return most


def _change(blocks: Sequence[tuple[int, str, str, int]], event: int) -> int:
    return blocks[event][0] if event >= 0 else -blocks[~event][0]
