"""One rank under DeepSpeed's ZeRO: its partitions, fp32 masters, and flat buffers."""

from dataclasses import replace

from planner.closed_form.divided import with_all_experts
from planner.closed_form.flat import Flat, Passes, flat_of
from planner.closed_form.profile import Profile
from planner.closed_form.rank import Shards, largest_gradient, packed_word, undivided
from planner.closed_form.recipe import key_of, storage_of
from planner.closed_form.units import Sharing
from planner.formulas.states import Trainable, optimizer_bytes
from planner.formulas.zero import MASTER_BYTES, NORM_BYTES, Buckets, buckets
from planner.spec import Scenario


def as_deepspeed(scenario: Scenario) -> Scenario:
    """The scenario in the dtypes that the engine makes of it.

    It casts every floating-point parameter to the dtype of mixed precision and computes without autocast, so norms that
    PEFT made fp32, adapters and a checkpoint in fp32 are 16-bit. Source: DeepSpeed 0.19.8 runtime/engine.py,
    _cast_module_mixed_precision; accelerate 1.15 accelerator.py, where autocast is left to DeepSpeed.
    """
    train = scenario.train
    narrow = train.weights_dtype if train.autocast == "none" else train.autocast
    if not train.sharding.startswith("zero") or narrow == "fp32":
        return scenario
    cast = replace(train, autocast="none", weights_dtype=narrow, adapter_dtype=narrow)
    return replace(scenario, train=cast, stack=replace(scenario.stack, kbit_upcast="none"))


def zero(scenario: Scenario, profile: Profile) -> Shards:
    """The stage that the settings name, over the ranks of the layout that shard."""
    train, inventory = scenario.train, profile.inventory
    flat = _flat(scenario)
    limits = limits_of(scenario)
    own = Trainable(flat.own, 1, 1)
    grouped = min(flat.own, limits.sub_group) if flat.stage == 3 else flat.own
    optimizer = optimizer_bytes(train.optimizer, [own], e=MASTER_BYTES)
    working = optimizer_bytes(train.optimizer, [Trainable(grouped, 1, 1)], e=MASTER_BYTES).temporary
    trained = flat.e * flat.own if flat.stage == 3 else flat.e * flat.trained
    base = inventory.weights if flat.stage < 3 else flat.frozen + undivided(train, inventory)
    return Shards(
        weights=base if train.uses_adapters or flat.stage < 3 else base + trained,
        adapters=trained if train.uses_adapters else 0,
        gradients=flat.gradients,
        optimizer=optimizer.states + _master(flat),
        managed=optimizer.managed,
        largest_gradient=largest_gradient(inventory),
        standing=flat.bucket + flat.persistent if flat.stage == 3 else 0,
        update=_update(flat, grouped, working),
        flat=flat,
    )


def limits_of(scenario: Scenario) -> Buckets:
    """Sizes of DeepSpeed's buckets for this model."""
    found = buckets(scenario.train.zero_buckets, h=scenario.model.hidden_size)
    return found._replace(turns=2) if scenario.train.takes_turns else found


def _flat(scenario: Scenario) -> Flat:
    key, train = key_of(scenario), scenario.train
    called = train.loss == "full" or scenario.stack.name != "trl"
    sharing = Sharing(
        ranks=scenario.layout.shard,
        compute=0,
        quant_storage=packed_word(train),
        called=called,
        reshard=True,
        replicated=False,
    )
    stage = int(train.sharding.removeprefix("zero"))
    storage, limits = storage_of(key, scenario.stack), _in_walk(scenario)
    passes = Passes(train.gradient_checkpointing)
    found = flat_of(scenario.model, storage, sharing, limits, stage, passes)
    if train.expert_parallel == 1:
        return found
    # each part of the experts is divided among the ranks that hold it: as if all ranks divided all experts
    everything = with_all_experts(scenario.model)
    all_of_it = flat_of(everything, storage, sharing, limits, stage, passes)
    return found._replace(own=all_of_it.own, touched=all_of_it.touched)


def _in_walk(scenario: Scenario) -> Buckets:
    """The limits that the coordinator keeps to: where it never learns the order, nothing is kept or fetched ahead.

    The adapters' base is asked for log probabilities by a pass of the same modules without adapters, which is not the
    order that was recorded, and a recording ends at each pass's beginning: none ever holds. DeepSpeed 0.19.8
    partitioned_param_coordinator.py, reset_step and trace_prologue.
    """
    limits, train = limits_of(scenario), scenario.train
    unknown = train.objective == "dpo" and train.reference == "base"
    return limits._replace(prefetch=0, reuse=0) if unknown else limits


def _master(flat: Flat) -> int:
    """The fp32 copy of this rank's part; stage 3 takes fp32 weights as they are."""
    return 0 if flat.stage == 3 and flat.e == MASTER_BYTES else MASTER_BYTES * flat.own


def _update(flat: Flat, grouped: int, working: int) -> int:
    """In turn: gradients in fp64 for their norm, flat in their dtype and in fp32, and what the optimizer makes."""
    widened = MASTER_BYTES * grouped if flat.e != MASTER_BYTES else 0
    return max(NORM_BYTES * flat.largest, flat.e * grouped + widened, widened + working)
