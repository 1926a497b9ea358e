"""Bytes that stand in a real job, by owner: parameters, states, gradients, each storage once."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from planner.build.job import Job
from planner.build.method import adapter_parameters
from planner.trace.run import quantisation_states


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the distinct storages behind ``tensors``; of one that is divided among ranks, this rank's part."""
    storages = (getattr(tensor, "_local_tensor", tensor).untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def standing_bytes(job: Job) -> Mapping[str, int]:
    """Weights with their buffers and scales, adapters, and the optimizer's states."""
    adapters = adapter_parameters(job.model)
    named: list[tuple[str, Any]] = [*job.model.named_parameters(), *job.model.named_buffers()]
    named += quantisation_states(job.model)
    return {
        "weights": storage_bytes(tensor for name, tensor in named if name not in adapters),
        "adapters": storage_bytes(tensor for name, tensor in named if name in adapters),
        "optimizer": storage_bytes(states_of(job)),
    }


def states_of(job: Job) -> list[torch.Tensor]:
    """Every tensor that the optimizer keeps."""
    states = job.optimizer.state.values()
    return [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]


def gradient_bytes(job: Job) -> int:
    """All gradients that are there."""
    return storage_bytes(p.grad for p in job.model.parameters() if p.grad is not None)
