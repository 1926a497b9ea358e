"""Which decoder layers are alike, so that a few of them stand for all."""

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from planner.allocator.depth import RECORDED_PERIODS, recording_depth
from planner.spec import Scenario

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


BY_LAYER = ("layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "layer_replication")
"""Fields of an ``adapter_config.json`` that may treat one layer unlike another. peft 0.21 tuners/lora/config.py."""

NAMING = ("target_modules", "exclude_modules", "modules_to_save", "target_parameters")
"""Fields that name modules or parameters, and may do so layer by layer. Same file."""

NUMBERED = re.compile(r"\d|\\d|\[")
"""A number in a path, or a class of characters in a regular expression, which may stand for some numbers only."""


def tells_layers_apart(scenario: Scenario, adapter: Mapping[str, object] | None) -> bool:
    """Whether an adapter may differ between layers that are otherwise alike."""
    train, fields = scenario.train, adapter or {}
    named = [fields.get(name) for name in NAMING] if fields else [train.lora_targets, train.modules_to_save]
    texts = [str(text) for names in named for text in (names if isinstance(names, list | tuple) else [names])]
    numbered = any("." in text and NUMBERED.search(text) for text in texts)
    return numbered or fields.get("peft_type") == "ADAPTION_PROMPT" or any(fields.get(name) for name in BY_LAYER)


def crosses_layers(scenario: Scenario) -> bool:
    """Whether an engine puts tensors of all layers into one: DeepSpeed's flat weights, gradients and buckets, and what
    FSDP2 gathers of a reference that is one unit.
    """
    train = scenario.train
    return train.sharding.startswith("zero") or (train.shards_by_fsdp and train.reference == "copy")
