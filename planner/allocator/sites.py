"""What is alive at one instant of a trace, by owner and by the module that asked for it, all layers together."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from planner.allocator.events import Trace

LAYER = re.compile(r"\.\d+(?=[.:]|$)")
"""A number in a module's path: that of a layer, or of an expert."""


class Site(NamedTuple):
    """Live blocks of one owner that were asked for at one place, ``*`` for the layer's number."""

    owner: str
    place: str
    blocks: int
    bytes: int


def alive_at(trace: Trace, index: int, handed_out: Sequence[int] = ()) -> tuple[Site, ...]:
    """Everything alive after event number ``index``, most bytes first.

    >>> from planner.allocator.events import Block
    >>> blocks = (Block(8, "weights", "model.layers.0.mlp"), Block(8, "weights", "model.layers.1.mlp"))
    >>> alive_at(Trace(blocks, (0, 1), (-1, -1), ()), 1)
    (Site(owner='weights', place='model.layers.*.mlp', blocks=2, bytes=16),)
    """
    live: set[int] = set()
    for event in trace.events[: index + 1]:
        if event >= 0:
            live.add(event)
        else:
            live.discard(~event)
    sizes, counts = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for block in live:
        one = trace.blocks[block]
        key = (one.owner, LAYER.sub(".*", one.site))
        sizes[key] += handed_out[block] if handed_out else one.bytes
        counts[key] += 1
    return tuple(Site(*key, counts[key], size) for key, size in sizes.most_common())
