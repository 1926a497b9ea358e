"""States as one rank holds them, and what of a quantised base an engine can divide: what all engines share."""

from typing import NamedTuple

from planner.closed_form.flat import Flat
from planner.closed_form.inventory import Inventory
from planner.closed_form.profile import Profile
from planner.closed_form.units import Units
from planner.formulas.offload import Away
from planner.formulas.sharding import Divided, shard
from planner.formulas.states import OptimizerBytes, Trainable, optimizer_bytes
from planner.spec import FLOAT_BYTES, Scenario, TrainSpec

COMPUTE_BYTES = 2
"""Gathered weights and gradients travel in 16 bit."""


class Shards(NamedTuple):
    """Bytes on one rank. Five are buffers, counted as temporaries in the phases that they name.

    ``units`` and ``flat``: what FSDP2 and ZeRO gather and reduce, whose buffers come and go inside the phases.
    """

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    managed: int
    largest_gradient: int
    standing: int = 0
    forward: int = 0
    loss: int = 0
    backward: int = 0
    update: int = 0
    units: Units | None = None
    flat: Flat | None = None
    away: Away = Away()
    """What offloading moves beyond the card."""


def states(scenario: Scenario, profile: Profile, divided: Divided) -> Shards:
    """Every state divided as told, without buffers; the update's temporaries are the optimizer's own."""
    inventory, train = profile.inventory, scenario.train
    stepped = among(profile, divided.optimizer)
    optimizer = optimizer_of(train, stepped.trained, inventory.trained_bytes, divided.optimizer)
    return Shards(
        weights=weights(train, among(profile, divided.weights), divided.weights),
        adapters=shard(among(profile, divided.weights).adapters, divided.weights),
        gradients=shard(among(profile, divided.gradients).gradients, divided.gradients),
        optimizer=optimizer.states,
        managed=optimizer.managed,
        largest_gradient=largest_gradient(inventory),
        update=optimizer.temporary,
    )


def largest_gradient(inventory: Inventory) -> int:
    """Bytes of the largest gradient; 0 where nothing is trained, as in a reference model."""
    return max((tensor.numel * (tensor.e or inventory.trained_bytes) for tensor in inventory.trained), default=0)


def among(profile: Profile, ranks: int) -> Inventory:
    """What ``ranks`` divide: what they hold together, experts of all of them among it; what a rank holds if it is one.

    With experts divided among e of them, each part of the experts is divided among the ranks/e that hold it.
    """
    return profile.shared if ranks > 1 else profile.inventory


def optimizer_of(train: TrainSpec, trained: tuple[Trainable, ...], e: int, ranks: int) -> OptimizerBytes:
    """States and temporaries of the optimizer on one of ``ranks``."""
    return optimizer_bytes(train.optimizer, trained, e=e, shards=ranks)


def weights(train: TrainSpec, inventory: Inventory, ranks: int) -> int:
    """Base weights of one rank: packed ones are divided only when their storage dtype is a float, scales never."""
    whole = undivided(train, inventory) if ranks > 1 else 0
    return whole + shard(inventory.weights - whole, ranks)


def undivided(train: TrainSpec, inventory: Inventory) -> int:
    """Bytes of a quantised base that every rank has whole: scales, and packed weights that are no floats."""
    if not train.quantized:
        return 0
    return inventory.scales if divisible(train) else inventory.quantized_weights


def packed_word(train: TrainSpec) -> int:
    """Bytes of a number of the dtype in which packed weights are divided; 0 where they are not."""
    return FLOAT_BYTES[train.quant_storage] if train.quantized and divisible(train) else 0


def divisible(train: TrainSpec) -> bool:
    """Whether quantised weights can be flattened and divided: 4-bit ones that are stored as floats."""
    return train.quant != "int8" and train.quant_storage != "uint8"
