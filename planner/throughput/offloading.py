"""What travels between one card and its host in one optimizer step where states are offloaded, and what the host does.

Memory is ``closed_form``'s; here are bytes that move.
"""

from typing import NamedTuple

from planner.result import Parameters
from planner.spec import Scenario, TrainSpec
from planner.throughput.exchanges import gradient_bytes, passes_of, stored_bytes, sums_of

ADAM_BYTES = 30
"""Of host memory that a processor's Adam moves for each parameter: gradient, master weight and two moments in fp32
read, the last three written, and a 16-bit copy. DeepSpeed csrc/adam/cpu_adam_impl.cpp."""

DRIVE_BYTES = 24
"""Of a drive for each parameter and step: master weight and two moments in fp32, read and written. DeepSpeed
runtime/swap_tensor/partitioned_optimizer_swapper.py."""


class Offloading(NamedTuple):
    """Bytes of one rank and step: ``streamed`` over PCIe beside computing, ``waited`` for over PCIe, and of all ranks
    of a machine ``updated`` in host memory and moved on a ``drive``.
    """

    streamed: float = 0.0
    waited: float = 0.0
    updated: float = 0.0
    drive: float = 0.0


NOTHING = Offloading()


def offloading(scenario: Scenario, parameters: Parameters, tokens: float) -> Offloading:
    """Traffic of the states that are offloaded.

    Shapes:    W bytes of stored weights and T parameters trained on S ranks, g of them in a machine; m micro-steps, of
               which s sum gradients; activations of L layers, h wide
    Formula:   optimizer: s gradients of T/S down and 2T/S up, ADAM_BYTES*T*g/S in host memory; parameters: W/S up for
               every gather; activations: m*2hL bytes a token down and up
    Source:    Ren 2021, arXiv:2101.06840, section 4 (ZeRO-Offload); Rajbhandari 2021, arXiv:2104.07857 (NVMe); torch
               2.13 _fsdp_api.py, CPUOffloadPolicy; TRL 1.16 models/activation_offloading.py
    Valid:     16-bit weights; layer inputs as what is offloaded, which is so under checkpointing
    Excludes:  delayed updates; tensors that are too small to be offloaded
    """
    train, shard = scenario.train, scenario.layout.shard
    found = NOTHING
    if "optimizer" in train.offload:
        trained = parameters.trainable / shard
        gradients = sums_of(scenario) * gradient_bytes(scenario) * trained
        on_drive = DRIVE_BYTES * trained * scenario.cluster.gpus if train.offload_device == "nvme" else 0.0
        found = Offloading(
            streamed=gradients, waited=2 * trained, updated=ADAM_BYTES * trained * scenario.cluster.gpus, drive=on_drive
        )
    if "parameters" in train.offload:
        found = found._replace(streamed=found.streamed + _weights(scenario, parameters))
    if "activations" in train.offload:
        found = found._replace(streamed=found.streamed + _activations(scenario, train, tokens))
    return found


def _weights(scenario: Scenario, parameters: Parameters) -> float:
    """The rank's shard for every gather; of a model on one card all of it."""
    return passes_of(scenario.train) * stored_bytes(scenario.train, parameters) / scenario.layout.shard


def _activations(scenario: Scenario, train: TrainSpec, tokens: float) -> float:
    inputs = 2 * scenario.model.hidden_size * scenario.model.num_hidden_layers
    return train.grad_accumulation * tokens * inputs * 2
