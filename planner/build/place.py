"""Where a job's tensors live: parameters and buffers leave the meta device only through a ``Place``."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

Maker = Callable[..., torch.Tensor]


class Place(NamedTuple):
    """A device that is called ``name`` by torch, how a tensor of a shape and dtype is made there, and which are there.

    ``host`` is what torch calls the memory beside it, from which tensors come and to which they go: the same name where
    both are one. ``real`` places hold values, so weights get some; on others nothing is ever computed. Under
    ``inside()`` a library's own code, such as PEFT's, can work on a model that is there.
    """

    name: str
    empty: Maker
    holds: Callable[[torch.Tensor], bool]
    real: bool
    inside: Callable[[], AbstractContextManager[Any]] = nullcontext
    host: str = "cpu"


def device_place(name: str) -> Place:
    """A real device: ``cpu`` or ``cuda``."""

    def empty(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=name)

    return Place(name, empty, lambda tensor: tensor.device.type == name, real=True)


STANDARD_DEVIATION = 0.02
"""Of random weights: small enough for finite losses, as in GPT-2's initialisation."""


def materialise(model: Any, place: Place) -> None:  # an nn.Module
    """Replace every parameter and buffer that is not at ``place`` by one that is; shared ones stay shared."""
    made: dict[int, tuple[Any, Any]] = {}  # the old one is kept, so that no other gets its id
    for module in model.modules():
        own = {"recurse": False, "remove_duplicate": False}
        for name, tensor in [*module.named_parameters(**own), *module.named_buffers(**own)]:
            if not place.holds(tensor):
                if id(tensor) not in made:
                    made[id(tensor)] = (tensor, _moved(tensor, place))
                setattr(module, name, made[id(tensor)][1])


def _moved(tensor: torch.Tensor, place: Place) -> torch.Tensor:
    """The same at ``place``: a buffer that has values keeps them, since some are indices; weights have none yet."""
    fresh = place.empty(tensor.shape, tensor.dtype)
    with torch.no_grad():
        if place.real and not tensor.is_meta:
            fresh.copy_(tensor)
        elif place.real and fresh.is_floating_point():
            fresh.normal_(std=STANDARD_DEVIATION)
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(fresh, requires_grad=tensor.requires_grad)
    return fresh
