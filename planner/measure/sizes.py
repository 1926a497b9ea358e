"""Bytes that stand in a real job, by owner: parameters, states, gradients, each storage once."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from planner.build.job import Job
from planner.build.method import adapter_parameters
from planner.trace.run import quantisation_states
from planner.trace.zero import masters


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the distinct storages behind ``tensors``; of one that is divided among ranks, this rank's part."""
    storages = (getattr(tensor, "_local_tensor", tensor).untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def standing_bytes(job: Job) -> Mapping[str, int]:
    """Weights with their buffers and scales, adapters, and the optimizer's states."""
    adapters = adapter_parameters(job.model)
    named: list[tuple[str, Any]] = [*job.model.named_parameters(), *job.model.named_buffers()]
    named += quantisation_states(job.model)
    named += [(name, p.ds_tensor) for name, p in job.model.named_parameters() if hasattr(p, "ds_tensor")]
    return {
        "weights": storage_bytes(tensor for name, tensor in named if name not in adapters),
        "adapters": storage_bytes(tensor for name, tensor in named if name in adapters),
        "optimizer": storage_bytes(states_of(job)),
    }


def states_of(job: Job) -> list[torch.Tensor]:
    """Every tensor that the optimizer keeps, and DeepSpeed's masters."""
    states = job.optimizer.state.values()
    kept = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
    return [*kept, *masters(job.optimizer)]


def gradient_bytes(job: Job) -> int:
    """All gradients that are there; DeepSpeed keeps a rank's part of them apart from its parameters."""
    found = [p.grad for p in job.model.parameters() if p.grad is not None]
    if job.engine is not None:
        parts = (part for group in job.optimizer.averaged_gradients.values() for part in group or ())
        flat = getattr(job.optimizer, "grad_partitions_flat_buffer", None)
        found += [part for part in (*parts, flat) if part is not None]
    return storage_bytes(found)
