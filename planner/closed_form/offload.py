"""Offloading: what leaves the card, what stays there for it, and what one rank holds beyond the card."""

from collections.abc import Mapping
from types import MappingProxyType

from planner.closed_form.flat import Flat
from planner.closed_form.rank import Shards
from planner.closed_form.units import Unit, Units
from planner.closed_form.zero import limits_of
from planner.formulas.offload import (
    STASH,
    Blocks,
    offloaded_optimizer,
    offloaded_optimizer_stage3,
    offloaded_parameters,
    offloaded_shards,
)
from planner.formulas.zero import NORM_BYTES
from planner.spec import Scenario, TrainSpec


def on_card(scenario: Scenario, shards: Shards) -> Shards:
    """What of a rank's states the card still holds; the rest is ``away``."""
    train = scenario.train
    if shards.units is not None and "parameters" in train.offload:
        return _fsdp(train, shards, shards.units)
    if shards.flat is None:
        return shards
    if "optimizer" in train.offload:
        shards = _optimizer(scenario, shards, shards.flat)
    if "parameters" in train.offload and shards.flat is not None:
        shards = _parameters(train, shards, shards.flat)
    return shards


# ---------------------------------------------------------------- FSDP2


def _fsdp(train: TrainSpec, shards: Shards, units: Units) -> Shards:
    """Shards, their gradients and the optimizer in RAM; the card holds what is gathered, and what cannot be divided."""
    frozen, trained = units.total("frozen"), units.total("trained")
    away = offloaded_shards(
        frozen=Blocks(frozen, units.total("frozen_locked")),
        trained=Blocks(trained, units.total("trained_locked")),
        states=shards.optimizer,
        pin=train.pin_memory,
    )
    whole = shards.weights + shards.adapters - frozen - trained
    emptied = units._replace(
        root=_empty(units.root),
        embedding=_empty(units.embedding),
        tail=_empty(units.tail),
        kinds=tuple(_empty(unit) for unit in units.kinds),
    )
    return shards._replace(
        weights=whole, adapters=0, gradients=0, optimizer=0, update=0, units=emptied, away=shards.away.plus(away)
    )


def _empty(unit: Unit) -> Unit:
    return unit._replace(frozen=0, trained=0)


# ---------------------------------------------------------------- ZeRO


def _optimizer(scenario: Scenario, shards: Shards, flat: Flat) -> Shards:
    """Master weights, moments and reduced gradients in RAM, where the update happens.

    Stages 1 and 2 keep a buffer for the largest gradient on the card. Each gradient's norm is taken there before it
    leaves, of a copy in fp64: stage_1_and_2.py, set_norm_for_param_grad_in_gpu.
    """
    train = scenario.train
    if flat.stage == 3:
        group = min(flat.own, limits_of(scenario).sub_group)
        nvme = train.offload_device == "nvme"
        away = offloaded_optimizer_stage3(flat.own, e=flat.e, group=group, nvme=nvme, pin=train.pin_memory)
    else:
        whole = flat.touched if train.grad_accumulation > 1 else 0
        largest = shards.largest_gradient // flat.e
        away = offloaded_optimizer(flat.own, e=flat.e, largest=largest, whole=whole, pin=train.pin_memory)
    return shards._replace(
        optimizer=0,
        managed=0,
        gradients=0,
        update=0,
        standing=shards.standing + (shards.largest_gradient if flat.stage < 3 else 0),
        flat=flat._replace(touched=0, reduced=_measured(flat)),
        away=shards.away.plus(away),
    )


def _measured(flat: Flat) -> Mapping[int, int]:
    """Beside each gradient, its part of this rank in fp64."""
    found = {place: count + NORM_BYTES * min(count // flat.e, flat.largest) for place, count in flat.reduced.items()}
    return MappingProxyType(found)


def _parameters(train: TrainSpec, shards: Shards, flat: Flat) -> Shards:
    """A rank's parts of the parameters in RAM or on a drive; what persists stays on the card whole."""
    trained = flat.e * flat.own
    parts = flat.frozen + trained
    away = offloaded_parameters(parts // flat.e, e=flat.e, nvme=train.offload_device == "nvme")
    base = shards.weights + shards.adapters - parts
    return shards._replace(weights=base, adapters=0, away=shards.away.plus(away))


# ---------------------------------------------------------------- activations


def inputs_on_card(scenario: Scenario, count: int) -> int:
    """How many layers' inputs the card holds: of offloaded ones, those whose copies are on their way."""
    return min(count, scenario.stack.checkpoint_stash) if "activations" in scenario.train.offload else count


def saved_on_card(scenario: Scenario, saved: int) -> int:
    """Bytes of what layers saved that the card still holds, where they are not checkpointed: the widest few tensors."""
    train = scenario.train
    if "activations" not in train.offload:
        return saved
    widest = max(linear.d_out for block in scenario.model.blocks for linear in block.linears)
    return min(saved, STASH * 2 * train.tokens * widest)
