"""The model that gives reference log probabilities: what of it stands on a rank, and what its forward pass gathers."""

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from planner.closed_form.flat import Flat, Passes, flat_of
from planner.closed_form.inventory import Storage
from planner.closed_form.profile import profile_of
from planner.closed_form.rank import COMPUTE_BYTES, packed_word, undivided
from planner.closed_form.recipe import key_of, storage_of
from planner.closed_form.units import Sharing, units_of
from planner.closed_form.zero import limits_of
from planner.formulas.sharding import shard
from planner.spec import Block, ModelSpec, Scenario


class Reference(NamedTuple):
    """Bytes of a second model on one rank: its weights, and what is whole for a while in its forward pass."""

    weights: int = 0
    standing: int = 0
    """What stays whole between its passes."""
    in_layers: int = 0
    at_head: int = 0
    outside: int = 0
    """While its logits are scored, after its forward pass."""

    @property
    def standing_weights(self) -> int:
        """What is there in every phase."""
        return self.weights + self.standing


NO_REFERENCE = Reference()


def reference_of(scenario: Scenario) -> Reference:
    """What ``--reference copy`` keeps on a rank; nothing for the other kinds.

    Stages 1 and 2 of ZeRO keep it whole, as one card and DDP do: trl 1.16 models/utils.py, prepare_deepspeed. It is
    loaded in the dtype that the model was loaded in: trainer/dpo_trainer.py, ``ref_model_init_kwargs``.
    """
    train = scenario.train
    if train.reference != "copy":
        return NO_REFERENCE
    if train.sharding == "zero3":
        return _partitioned(scenario)
    if train.shards_by_fsdp:
        if scenario.stack.fsdp_version == 1:
            return _in_units(scenario)
        return _by_layers(scenario) if scenario.stack.reference_units == "layers" else _in_one_unit(scenario)
    return Reference(weights=_whole(scenario))


def without_adapters(scenario: Scenario) -> Scenario:
    """The scenario of the base alone, as a reference computes it: adapters are disabled, or never were."""
    if not scenario.train.uses_adapters:
        return scenario
    return replace(scenario, train=replace(scenario.train, lora_targets=(), modules_to_save=()))


def as_reference(scenario: Scenario) -> Scenario:
    """The scenario of the reference's own pass."""
    base = without_adapters(scenario)
    return replace(base, train=replace(base.train, weights_dtype=scenario.reference_dtype))


@lru_cache(maxsize=256)
def undropped(model: ModelSpec) -> ModelSpec:
    """The model whose dropout modules are off. trl 1.16 trainer/utils.py, disable_dropout_in_model."""
    return replace(model, blocks=tuple(map(_undropped, model.blocks)), embedding_dropout=0.0)


def _undropped(block: Block) -> Block:
    attention = replace(block.attention, dropout=0.0)
    mlp = None if block.mlp is None else replace(block.mlp, dropout=0.0)
    return replace(block, attention=attention, mlp=mlp, residual_dropout=0.0)


# ---------------------------------------------------------------- on one rank


def _as_loaded(scenario: Scenario) -> Scenario:
    """The second model by itself on one card: a trainer prepares no quantised copy and widens no shards."""
    base = as_reference(scenario)
    return replace(base, train=replace(base.train, sharding="none"), stack=replace(base.stack, kbit_upcast="none"))


def _whole(scenario: Scenario) -> int:
    return profile_of(_as_loaded(scenario)).inventory.weights


def _in_units(scenario: Scenario) -> Reference:
    """FSDP1 wraps it as it wraps the policy: the root's parameters whole beside one layer's."""
    model, ranks = scenario.model, scenario.layout.shard
    outer = sum(table.params for table in model.embeddings) + model.hidden_size
    root = COMPUTE_BYTES * (outer + (0 if model.tie_word_embeddings else model.lm_head.params))
    layer = COMPUTE_BYTES * profile_of(_as_loaded(scenario)).largest_block
    return Reference(weights=shard(_whole(scenario), ranks), in_layers=root + layer, at_head=root, outside=root)


def _in_one_unit(scenario: Scenario) -> Reference:
    """FSDP2 takes the whole model as one unit, without a wrapping policy: all of it is gathered at once.

    Shapes:    every tensor's shard; all tensors in the all-gather's output, and copied out of it
    Formula:   shards; in the forward pass 2 x the whole model in the dtype of compute
    Source:    trl 1.16 models/utils.py, prepare_fsdp: one ``fully_shard(model)``; torch 2.13
               distributed/fsdp/_fully_shard/_fsdp_param_group.py, wait_for_unshard keeps the output until another
               unit's comes
    Valid:     accelerate's ``fsdp_version: 2``
    Excludes:  packed weights that are stored as integers, which stay whole
    """
    alone = _as_loaded(scenario)
    train, storage = scenario.train, storage_of(key_of(alone), alone.stack)
    sharing = Sharing(
        ranks=scenario.layout.shard,
        compute=COMPUTE_BYTES if train.autocast != "none" else 0,
        quant_storage=packed_word(train),
        called=True,
        reshard=True,
        replicated=False,
    )
    units = units_of(scenario.model, storage, sharing)
    shards, gathered = units.total("frozen") + units.total("trained") + _left_whole(alone), units.total("gathered")
    if not train.reshard_after_forward:
        return Reference(weights=shards, standing=gathered)
    return Reference(weights=shards, in_layers=2 * gathered, at_head=2 * gathered, outside=gathered)


def _by_layers(scenario: Scenario) -> Reference:
    """FSDP2 takes layers, and all else as one root unit, which no backward pass puts back among the ranks.

    torchtune 0.6 recipes/full_dpo_distributed.py, _setup_reference_model: shard_model as for the policy, in one dtype.
    """
    alone = _as_loaded(scenario)
    sharing = Sharing(
        ranks=scenario.layout.shard,
        compute=0,
        quant_storage=0,
        called=True,
        reshard=scenario.train.reshard_after_forward,
        replicated=False,
        outer=False,
    )
    units = units_of(scenario.model, storage_of(key_of(alone), alone.stack), sharing)
    places, standing = range(len(units.layout)), units.standing(len(units.layout))
    return Reference(
        weights=units.total("frozen") + units.total("trained"),
        standing=standing,
        in_layers=max(units.entering(place) for place in places) - units.standing(0),
        at_head=units.last.gathered,
    )


def _partitioned(scenario: Scenario) -> Reference:
    """ZeRO-3 divides it as it divides the policy: trl 1.16 models/utils.py, prepare_deepspeed."""
    alone = _as_loaded(scenario)
    storage = storage_of(key_of(alone), alone.stack)
    flat = _frozen(scenario, storage)
    own = flat.e * flat.own if storage.method == "full" else flat.frozen + _left_whole(alone)
    gathered = max(
        (size for (which, _), size in (*flat.gathered.items(), *flat.arriving.items()) if which == "forward")
    )
    return Reference(weights=own, standing=flat.persistent, in_layers=gathered, at_head=gathered, outside=gathered)


def _frozen(scenario: Scenario, storage: Storage) -> Flat:
    sharing = Sharing(
        ranks=scenario.layout.shard,
        compute=0,
        quant_storage=packed_word(scenario.train),
        called=False,
        reshard=True,
        replicated=False,
    )
    passes = Passes(checkpointing=False, backward=False)
    return flat_of(scenario.model, storage, sharing, limits_of(scenario), 3, passes)


def _left_whole(alone: Scenario) -> int:
    """Bytes of packed weights that every rank has whole."""
    return undivided(alone.train, profile_of(alone).inventory) if alone.train.quantized else 0
