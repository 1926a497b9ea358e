"""States and engine buffers as one rank holds them."""

from typing import NamedTuple

from planner.closed_form.inventory import Inventory
from planner.closed_form.profile import Profile
from planner.formulas.sharding import (
    ddp_buckets,
    deepspeed_reduce_buffers,
    divisors,
    fsdp_gathered,
    shard,
    zero3_live_parameters,
)
from planner.formulas.states import OptimizerBytes, optimizer_bytes
from planner.spec import Scenario

COMPUTE_BYTES = 2
"""Gathered weights and gradients travel in 16 bit."""

MASTER_BYTES = 4
"""ZeRO keeps an fp32 copy of every 16-bit parameter that it trains."""


class Shards(NamedTuple):
    """Bytes on one rank. The last five are buffers, counted as temporaries in the phases that they name."""

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    managed: int
    largest_gradient: int
    standing: int
    forward: int
    loss: int
    backward: int
    update: int


def shard_states(scenario: Scenario, profile: Profile) -> Shards:
    """States divided by the scheme, with its buffers."""
    train, ranks = scenario.train, scenario.cluster.world_size
    inventory, scheme = profile.inventory, train.sharding
    divided = divisors(scheme, ranks)
    zero = scheme.startswith("zero") and inventory.trained_bytes == COMPUTE_BYTES
    state_bytes = MASTER_BYTES if zero else inventory.trained_bytes
    trained = tuple(tensor._replace(e=0) for tensor in inventory.trained) if zero else inventory.trained
    optimizer = optimizer_bytes(train.optimizer, trained, e=state_bytes, shards=divided.optimizer)
    master = shard(MASTER_BYTES * inventory.trainable, divided.optimizer) if zero else 0
    gradients = inventory.gradients
    buffers = _BUFFERS[scheme](scenario, profile)
    return Shards(
        weights=_weights(scenario, inventory, divided.weights),
        adapters=shard(inventory.adapters, divided.weights),
        gradients=shard(gradients, divided.gradients),
        optimizer=optimizer.states + master,
        managed=optimizer.managed,
        largest_gradient=max(tensor.numel * (tensor.e or inventory.trained_bytes) for tensor in inventory.trained),
        standing=buffers.standing,
        forward=buffers.forward,
        loss=buffers.loss,
        backward=buffers.backward,
        update=_update(optimizer, scheme, gradients, divided.optimizer, zero=zero),
    )


def _weights(scenario: Scenario, inventory: Inventory, ranks: int) -> int:
    """Base weights of one rank: packed ones are divided only when their storage dtype is a float, scales never."""
    whole = _replicated(scenario, inventory) if ranks > 1 else 0
    return whole + shard(inventory.weights - whole, ranks)


def _replicated(scenario: Scenario, inventory: Inventory) -> int:
    if not scenario.train.quantized:
        return 0
    return inventory.scales if _shardable(scenario) else inventory.quantized_weights


def _shardable(scenario: Scenario) -> bool:
    """Whether quantised weights can be flattened and divided: 4-bit ones that are stored as floats."""
    return scenario.train.quant != "int8" and scenario.train.quant_storage != "uint8"


def _update(optimizer: OptimizerBytes, scheme: str, gradients: int, ranks: int, *, zero: bool) -> int:
    """The optimizer's temporaries; ZeRO also makes an fp32 copy of this rank's gradients."""
    return optimizer.temporary + (shard(2 * gradients, ranks) if zero and scheme != "none" else 0)


class _Buffers(NamedTuple):
    standing: int = 0
    forward: int = 0
    loss: int = 0
    backward: int = 0


def _none(scenario: Scenario, profile: Profile) -> _Buffers:
    return _Buffers()


def _ddp(scenario: Scenario, profile: Profile) -> _Buffers:
    return _Buffers(standing=ddp_buckets(profile.inventory.gradients))


def _reduce_buffers(scenario: Scenario, profile: Profile) -> _Buffers:
    return _Buffers(backward=deepspeed_reduce_buffers(h=scenario.model.hidden_size, e=COMPUTE_BYTES))


def _zero3(scenario: Scenario, profile: Profile) -> _Buffers:
    model, params = scenario.model, _gatherable(scenario, profile.inventory)
    live = zero3_live_parameters(params=params, h=model.hidden_size, e=COMPUTE_BYTES)
    reduce = deepspeed_reduce_buffers(h=model.hidden_size, e=COMPUTE_BYTES) // 2
    return _Buffers(forward=live, loss=live, backward=live + reduce)


def _fsdp1(scenario: Scenario, profile: Profile) -> _Buffers:
    """Root unit (embedding, final norm, head) gathered from forward to the end of backward, and one layer at a time."""
    model, inventory = scenario.model, profile.inventory
    outer = sum(table.params for table in model.embeddings) + model.hidden_size
    root = COMPUTE_BYTES * (outer + (0 if model.tie_word_embeddings else model.lm_head.params))
    layer = int(profile.largest_block * _gathered_bytes_per_param(scenario))
    whole = 0
    if scenario.train.method == "full":
        whole = COMPUTE_BYTES * (
            model.lm_head.params + max(tensor.numel for tensor in inventory.trained if not tensor.embedding)
        )
    return _Buffers(forward=root + layer, loss=root, backward=root + layer + whole)


def _fsdp(scenario: Scenario, profile: Profile) -> _Buffers:
    """Gathered layers and head; in backward also the layer's whole gradients and their reduce-scatter input."""
    if scenario.stack.fsdp_version == 1:
        return _fsdp1(scenario, profile)
    gathered = int(fsdp_gathered(block=profile.largest_block, outer=0, e=1) * _gathered_bytes_per_param(scenario))
    tail = scenario.model.lm_head.params * profile.head_bytes
    whole = 2 * COMPUTE_BYTES * profile.largest_block if scenario.train.method == "full" else 0
    return _Buffers(forward=gathered, loss=tail + gathered // 2, backward=gathered + tail + whole)


def _gatherable(scenario: Scenario, inventory: Inventory) -> int:
    whole = scenario.train.quantized and not _shardable(scenario)
    return inventory.parameters.total - (inventory.parameters.quantized if whole else 0)


def _gathered_bytes_per_param(scenario: Scenario) -> float:
    """A gathered layer weighs 16 bits a parameter, or 4 in packed form; replicated weights are not gathered."""
    if not scenario.train.quantized:
        return COMPUTE_BYTES
    return 0.5 if _shardable(scenario) else 0.0


_BUFFERS = {
    "none": _none,
    "ddp": _ddp,
    "zero1": _reduce_buffers,
    "zero2": _reduce_buffers,
    "zero3": _zero3,
    "fsdp": _fsdp,
}
