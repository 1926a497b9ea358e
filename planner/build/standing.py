"""What stands in a built job from step to step: scales of quantised matrices, states, and what DeepSpeed keeps."""

from collections.abc import Iterator
from typing import Any

import torch

from planner.build.model import is_quantised


def quantisation_states(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Scales and tables of quantised matrices, which are no parameters."""
    for name, module in model.named_modules():
        if is_quantised(module):
            for holder in (getattr(module, "quant_state", None), getattr(module, "state", None)):
                yield from ((f"{name}.scales", tensor) for tensor in _tensors_in(holder))


def _tensors_in(holder: Any) -> Iterator[torch.Tensor]:
    """Tensors among the attributes of an object, one level of nested quantisation included."""
    for value in vars(holder).values() if holder is not None else ():
        if isinstance(value, torch.Tensor):
            yield value
        elif type(value) is type(holder):
            yield from _tensors_in(value)


def states_of(optimizer: Any) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
    """Every parameter with the tensors that an optimizer keeps for it."""
    for parameter, state in optimizer.state.items():
        yield parameter, [value for value in state.values() if isinstance(value, torch.Tensor)]


# ---------------------------------------------------------------- DeepSpeed


def masters(optimizer: Any) -> list[Any]:
    """The fp32 copies of a rank's part of what is trained. deepspeed 0.19 runtime/zero/stage_1_and_2.py, stage3.py."""
    names = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat")
    return [master for name in names for master in getattr(optimizer, name, ())]


def parts_of_weights(model: Any) -> Iterator[tuple[str, Any]]:
    """A rank's part of every parameter that stage 3 divides, by name."""
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_tensor"):
            yield name, parameter.ds_tensor


def averaged_gradients(optimizer: Any) -> Iterator[Any]:
    """A rank's part of the gradients that have been reduced, which the update takes."""
    for group in optimizer.averaged_gradients.values():
        yield from (part for part in group or () if part is not None)


def flat_gradients(optimizer: Any) -> list[Any]:
    """Stage 3's one tensor for a rank's part of all gradients, which stands from the beginning."""
    flat = getattr(optimizer, "grad_partitions_flat_buffer", None)
    return [] if flat is None else [flat]
