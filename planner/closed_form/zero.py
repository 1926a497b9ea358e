"""One rank under DeepSpeed's ZeRO: its shards, fp32 masters, and flat buffers."""

from planner.closed_form.inventory import Inventory
from planner.closed_form.profile import Profile
from planner.closed_form.rank import COMPUTE_BYTES, Shards, divisible, optimizer_of, states
from planner.formulas.sharding import deepspeed_reduce_buffers, divisors, shard, zero3_live_parameters
from planner.spec import Scenario

MASTER_BYTES = 4
"""ZeRO keeps an fp32 copy of every 16-bit parameter that it trains."""


def zero(scenario: Scenario, profile: Profile) -> Shards:
    """The stage that the settings name, over the ranks of the layout that shard."""
    train, inventory = scenario.train, profile.inventory
    divided = divisors(train.sharding, scenario.layout.shard)
    shards = _buffered(scenario, profile, states(scenario, profile, divided))
    if inventory.trained_bytes != COMPUTE_BYTES:
        return shards
    trained = tuple(tensor._replace(e=0) for tensor in inventory.trained)
    optimizer = optimizer_of(train, trained, MASTER_BYTES, divided.optimizer)
    master = shard(MASTER_BYTES * inventory.trainable, divided.optimizer)
    widened = shard(2 * inventory.gradients, divided.optimizer)
    return shards._replace(
        optimizer=optimizer.states + master, managed=optimizer.managed, update=optimizer.temporary + widened
    )


def _buffered(scenario: Scenario, profile: Profile, shards: Shards) -> Shards:
    reduce = deepspeed_reduce_buffers(h=scenario.model.hidden_size, e=COMPUTE_BYTES)
    if scenario.train.sharding != "zero3":
        return shards._replace(backward=reduce)
    params = _gatherable(scenario, profile.inventory)
    live = zero3_live_parameters(params=params, h=scenario.model.hidden_size, e=COMPUTE_BYTES)
    return shards._replace(forward=live, loss=live, backward=live + reduce // 2)


def _gatherable(scenario: Scenario, inventory: Inventory) -> int:
    whole = scenario.train.quantized and not divisible(scenario.train)
    return inventory.parameters.total - (inventory.parameters.quantized if whole else 0)
