"""Bytes that stand in a real job, by owner: parameters, states, gradients, each storage once."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from planner.build.job import Job
from planner.build.method import adapter_parameters
from planner.build.standing import (
    averaged_gradients,
    flat_gradients,
    masters,
    parts_of_weights,
    quantisation_states,
    states_of,
)


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the distinct storages behind ``tensors``; of one that is divided among ranks, this rank's part."""
    storages = (getattr(tensor, "_local_tensor", tensor).untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def standing_bytes(job: Job) -> Mapping[str, int]:
    """Weights with their buffers and scales, adapters, and the optimizer's states."""
    adapters = adapter_parameters(job.model)
    named: list[tuple[str, Any]] = [*job.model.named_parameters(), *job.model.named_buffers()]
    named += [*quantisation_states(job.model), *parts_of_weights(job.model)]
    states = [state for _, states in states_of(job.optimizer) for state in states]
    return {
        "weights": storage_bytes(tensor for name, tensor in named if name not in adapters),
        "adapters": storage_bytes(tensor for name, tensor in named if name in adapters),
        "optimizer": storage_bytes([*states, *masters(job.optimizer)]),
    }


def gradient_bytes(job: Job) -> int:
    """All gradients that are there; DeepSpeed keeps a rank's part of them apart from its parameters."""
    found = [p.grad for p in job.model.parameters() if p.grad is not None]
    if job.engine is not None:
        found += [*averaged_gradients(job.optimizer), *flat_gradients(job.optimizer)]
    return storage_bytes(found)
