"""One rank under FSDP: its shards, and the layers and gradients that it holds whole for a while."""

from planner.closed_form.inventory import Inventory
from planner.closed_form.profile import Profile
from planner.closed_form.rank import (
    COMPUTE_BYTES,
    Shards,
    divisible,
    largest_gradient,
    optimizer_of,
    packed_word,
    states,
    undivided,
)
from planner.closed_form.recipe import key_of, storage_of
from planner.closed_form.units import Sharing, Units, units_of
from planner.errors import UnsupportedScenario
from planner.formulas.adapters import saved_modules
from planner.formulas.sharding import divisors
from planner.formulas.states import Trainable
from planner.spec import ModelSpec, Scenario, TrainSpec


def fsdp(scenario: Scenario, profile: Profile) -> Shards:
    """FSDP of the version that the stack uses, over the ranks of the layout that shard."""
    return _version_1(scenario, profile) if scenario.stack.fsdp_version == 1 else _version_2(scenario, profile)


# ---------------------------------------------------------------- version 1


def _version_1(scenario: Scenario, profile: Profile) -> Shards:
    """Root unit (embedding, final norm, head) gathered from forward to the end of backward, and one layer at a time."""
    model, inventory = scenario.model, profile.inventory
    shards = states(scenario, profile, divisors(scenario.train.sharding, scenario.layout.shard))
    outer = sum(table.params for table in model.embeddings) + model.hidden_size
    root = COMPUTE_BYTES * (outer + (0 if model.tie_word_embeddings else model.lm_head.params))
    layer = int(profile.largest_block * _gathered_bytes_per_param(scenario))
    whole = 0
    if scenario.train.method == "full":
        whole = COMPUTE_BYTES * (
            model.lm_head.params + max(tensor.numel for tensor in inventory.trained if not tensor.embedding)
        )
    return shards._replace(forward=root + layer, loss=root, backward=root + layer + whole)


def _gathered_bytes_per_param(scenario: Scenario) -> float:
    """A gathered layer weighs 16 bits a parameter, or 4 in packed form; replicated weights are not gathered."""
    if not scenario.train.quantized:
        return COMPUTE_BYTES
    return 0.5 if divisible(scenario.train) else 0.0


# ---------------------------------------------------------------- version 2


def _version_2(scenario: Scenario, profile: Profile) -> Shards:
    """Every tensor divided by itself; what stays whole besides is what the engine cannot divide."""
    train, inventory = scenario.train, profile.inventory
    units = _units(scenario)
    frozen, trained = units.total("frozen"), units.total("trained")
    optimizer = optimizer_of(train, _local(inventory, scenario.layout.shard), inventory.trained_bytes, 1)
    return Shards(
        weights=frozen + undivided(train, inventory) + (0 if train.uses_adapters else trained),
        adapters=trained if train.uses_adapters else 0,
        gradients=trained,
        optimizer=optimizer.states,
        managed=optimizer.managed,
        largest_gradient=largest_gradient(inventory),
        update=optimizer.temporary,
        units=units,
    )


def _units(scenario: Scenario) -> Units:
    key, train = key_of(scenario), scenario.train
    _refuse_shared(scenario.model, train)
    weight_alone = train.loss != "full" and scenario.stack.name == "trl" and train.uses_adapters
    sharing = Sharing(
        ranks=scenario.layout.shard,
        compute=COMPUTE_BYTES if key.mixed_shards else 0,
        quant_storage=packed_word(train),
        called=not weight_alone,
        reshard=train.reshard_after_forward,
        replicated=scenario.layout.replicate > 1,
        outer=scenario.stack.fsdp2_units == "outer",
    )
    return units_of(scenario.model, storage_of(key, scenario.stack), sharing)


def _refuse_shared(model: ModelSpec, train: TrainSpec) -> None:
    """PEFT's copy of a tied head or embedding hides from accelerate that the originals are one matrix.

    accelerate 1.15 utils/fsdp_utils.py, fsdp2_prepare_model, then puts one matrix into two units, which torch 2.13
    refuses.
    """
    if not model.tie_word_embeddings or not train.uses_adapters:
        return
    tied = {model.lm_head.name, model.embeddings[0].name}
    if saved := sorted(tied & set(saved_modules(model, train.modules_to_save))):
        raise UnsupportedScenario(
            f"fully_shard cannot divide {model.name} with --modules-to-save {','.join(saved)}: its embedding and head "
            "are one matrix; leave it out, or use --sharding ddp"
        )


def _local(inventory: Inventory, ranks: int) -> tuple[Trainable, ...]:
    """What the optimizer sees on the first rank."""
    return tuple(tensor._replace(rows=-(-tensor.rows // ranks)) for tensor in inventory.trained)
