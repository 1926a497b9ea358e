"""Which decoder layers are alike, so that a few of them stand for all."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from planner.allocator.depth import RECORDED_PERIODS, recording_depth

SCALARS = (int, float, str, bool, type(None))

PLACES = ("layer_idx", "layer_id", "layer_number", "layer_index", "idx", "training")
"""Attributes that tell a layer's place, which makes no difference to what it computes."""


class Depth(NamedTuple):
    """``layers`` layers: ``prefix`` of their own, then a pattern of ``period`` that repeats, maybe cut at the end.

    ``recorded`` layers are enough to write down; all of them where nothing repeats often enough.
    """

    layers: int
    prefix: int
    period: int

    @property
    def recorded(self) -> int:
        """Layers to run."""
        return recording_depth(self.layers, period=self.period, prefix=self.prefix)

    def image(self, layer: int) -> int:
        """The recorded layer that is like ``layer``; numbers below 0 stand for themselves.

        >>> Depth(61, 3, 1).image(60), Depth(34, 0, 6).image(33)
        (3, 3)
        """
        return layer if layer < self.prefix else self.prefix + (layer - self.prefix) % self.period


def signature(layer: Any) -> Hashable:  # an nn.Module
    """What decides a layer's work: its modules, their parameters' shapes and dtypes, and their plain attributes."""
    found: list[Hashable] = []
    for name, module in layer.named_modules():
        own = tuple(
            (key, tuple(p.shape), p.dtype, p.requires_grad) for key, p in module.named_parameters(recurse=False)
        )
        found.append((name, type(module).__name__, own, _plain_attributes(module)))
    return tuple(found)


def _plain_attributes(module: Any) -> Hashable:
    return frozenset(
        (key, value)
        for key, value in vars(module).items()
        if isinstance(value, SCALARS) and key not in PLACES and not key.startswith("_")
    )


def find_depth(kinds: Sequence[Hashable]) -> Depth:
    """The cheapest way to write down a stack of layers of these kinds.

    >>> find_depth("aaaaaaaa"), find_depth("aaaaaaaa").recorded
    (Depth(layers=8, prefix=0, period=1), 4)
    >>> find_depth("dddmmmmmmmmmm").recorded
    7
    >>> find_depth("sssssgsssssgsssssgsssssgsssssgssss").recorded
    28
    """
    count = len(kinds)
    best = Depth(count, 0, count)
    for period in range(1, count // RECORDED_PERIODS + 1):
        prefix = count - period
        while prefix > 0 and kinds[prefix - 1] == kinds[prefix - 1 + period]:
            prefix -= 1
        found = Depth(count, prefix, period)
        if found.recorded < best.recorded:
            best = found
    return best
