"""Everything about a scenario that does not depend on the batch, worked out once and kept."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from planner.closed_form.divided import with_all_experts
from planner.closed_form.inventory import Inventory, Storage, take_inventory
from planner.closed_form.parallel import ranks_on_tape
from planner.errors import UnsupportedScenario
from planner.formulas.adapters import Adapters, adapters
from planner.formulas.blocks import block_tape
from planner.formulas.head import LossTape, hidden_tape, loss_tape
from planner.formulas.operations import Ranks, Recipe
from planner.formulas.params import block_params
from planner.formulas.tape import (
    ZERO,
    Instant,
    Size,
    Tape,
    Tensor,
    backward_instants,
    forward_instants,
    gradients_before_recompute,
    total,
)
from planner.spec import FLOAT_BYTES, Behaviour, Block, ModelSpec, Scenario, TrainSpec

NO_ADAPTERS = Adapters(modules=frozenset(), parameters=frozenset(), saved=frozenset(), per_rank=0, saved_params=0)


class ProfileKey(NamedTuple):
    """The settings of a ``TrainSpec`` that shape the tapes; batch, length and optimizer are not among them."""

    method: str
    lora_rank: int
    lora_targets: tuple[str, ...]
    modules_to_save: tuple[str, ...]
    adapter_dtype: str
    dropout: bool
    quant: str
    double_quant: bool
    weights_dtype: str
    autocast: str
    attention: str
    flash_kernel: bool
    kernels: str
    mixed_shards: bool
    """FSDP's own mixed precision: fp32 shards of what is trained, 16-bit copies for compute."""
    units: bool
    """FSDP2 gathers and frees the head and every layer apart."""
    several: bool
    """More than one sequence in the micro-batch."""
    checkpointing: bool
    ranks: Ranks = Ranks()
    wide_outside: bool = False
    """Norms, embeddings and head are trained in fp32 beside narrower layers."""


class Part(NamedTuple):
    """One kind of layer, or the head: what it keeps and what can be its peak."""

    kept: Instant
    lasting: Instant
    """What lasts from this layer's forward to its backward: all that is kept, or what its checkpoint cannot free."""
    aside: Size
    """What a checkpointed layer returns beside its output: it lives until the next layer returns."""
    forward: tuple[Instant, ...]
    recompute: tuple[Instant, ...]
    backward: tuple[Instant, ...]
    waiting: Size
    """Gradients alive while a checkpointed layer is recomputed."""
    weight_grad: int


class Turn(NamedTuple):
    """One layer's place in the stack: its kind, what is before it, and what its backward finds after it."""

    kind: int
    before: int
    kept_before: Instant
    """What lasts of the layers before it, besides their inputs."""
    weight_grad_after: int


@dataclass(frozen=True, slots=True)
class Profile:
    """Batch-independent facts of a scenario."""

    inventory: Inventory
    shared: Inventory
    """Of all ranks that shard one another's states: with the experts of each of them."""
    recipe: Recipe
    layers: tuple[Part, ...]
    hidden: Part
    loss: Part
    scoring: tuple[Instant, ...]
    """The part of the loss's backward before the head's own begins; empty where nobody asks for it."""
    heading: tuple[Instant, ...]
    """The part from there on."""
    held_logits: Size
    hidden_bytes: int
    """Element size of the last hidden state."""
    head_trained: bool
    head_bytes: int
    tied_grad: int
    """Second gradient of a tied embedding, alive beside the first until they are added."""
    autocast_cache: int
    """16-bit copies of trained fp32 weights that autocast keeps until the forward pass ends."""
    stream: Size
    turns: tuple[Turn, ...]
    """The first and the last layer of each kind: one of them holds the largest instant."""
    inner_turns: tuple[Turn, ...]
    """Neighbours of these, where what an engine gathers for them differs."""
    all_kept: Instant
    """What lasts of all layers, besides their inputs."""
    largest_block: int
    """Parameters of the largest layer."""


def profile_of(scenario: Scenario) -> Profile:
    """The profile of a scenario, from the cache when only batch, length or optimizer differ."""
    return _profile(scenario.model, key_of(scenario), scenario.stack)


def key_of(scenario: Scenario) -> ProfileKey:
    """What of a scenario decides its profile."""
    train = scenario.train
    return ProfileKey(
        train.method,
        train.lora_rank,
        train.lora_targets,
        train.modules_to_save,
        train.adapter_dtype,
        train.lora_dropout > 0 and train.objective != "dpo",  # DPOConfig.disable_dropout
        train.quant if train.method == "qlora" else "",
        train.double_quant,
        train.weights_dtype,
        train.autocast,
        train.attention,
        scenario.cluster.gpu.supports_flash or scenario.cluster.gpu.is_cpu,  # a processor's kernel shares heads
        train.kernels,
        _mixed_shards(train, scenario.stack),
        train.shards_by_fsdp and scenario.stack.fsdp_version == 2,
        train.sequences > 1,
        train.gradient_checkpointing,
        ranks_on_tape(scenario),
        _wide_outside(train, scenario.stack),
    )


def _wide_outside(train: TrainSpec, stack: Behaviour) -> bool:
    """Whether norms, tables and head are trained in fp32 beside 16-bit matrices: ``full_upcast`` of the stack."""
    alone = train.sharding in ("none", "ddp") and train.weights_dtype != "fp32"
    return alone and train.method == "full" and train.attention in stack.full_upcast and train.loss != "fused"


def _mixed_shards(train: TrainSpec, stack: Behaviour) -> bool:
    """Version 1 gives each unit one dtype, and what it does with adapters we leave as it is on one card."""
    mixed = train.shards_by_fsdp and train.autocast != "none"
    return mixed and (train.method == "full" or stack.fsdp_version == 2)


def storage_of(key: ProfileKey, stack: Behaviour) -> Storage:
    """How the parameters are stored under a profile's settings.

    FSDP's mixed precision makes fp32 what is trained, but not on a quantised base: accelerate 1.15
    utils/fsdp_utils.py, fsdp2_prepare_model.
    """
    weight = FLOAT_BYTES[key.weights_dtype]
    quantized = key.method == "qlora"
    upcast = stack.kbit_upcast if quantized else "none"
    widened = key.mixed_shards and not quantized and stack.fsdp2_widens != "nothing"
    full = widened and (key.method == "full" or stack.fsdp2_widens == "all")
    outer = 4 if upcast == "all" or full else weight
    return Storage(
        method=key.method,
        weight_bytes=4 if full else weight,
        norm_bytes=4 if upcast in ("norms", "all") or full or key.wide_outside else weight,
        outer_bytes=outer,
        tables_bytes=4 if key.wide_outside else outer,
        experts_bytes=4 if upcast == "experts" else outer,
        quant=key.quant,
        double_quant=key.double_quant,
        fused_experts=stack.fused_experts,
        adapter_bytes=4 if widened else FLOAT_BYTES[key.adapter_dtype],
        saved_bytes=4 if widened else FLOAT_BYTES[key.adapter_dtype] if stack.saved_as_adapters else outer,
        rank=key.lora_rank,
        targets=key.lora_targets,
        modules_to_save=key.modules_to_save,
        torchao=stack.nf4 == "torchao",
    )


def recipe_of(model: ModelSpec, key: ProfileKey, stack: Behaviour) -> Recipe:
    """How a layer computes under a profile's settings.

    A layer that returns a wider dtype than it was given (fp32 norms before 4-bit matrices) widens the residual
    stream for all layers after it.
    """
    placed = NO_ADAPTERS
    if key.method != "full":
        placed = adapters(model, key.lora_targets, key.modules_to_save, fused_experts=stack.fused_experts)
    if placed.parameters and key.dropout:
        raise UnsupportedScenario(
            f"PEFT has no dropout on stacked experts, which these targets of {model.name} are: use --lora-dropout 0"
        )
    storage = storage_of(key, stack)
    compute = 2 if key.autocast != "none" or key.mixed_shards or key.quant else FLOAT_BYTES[key.weights_dtype]
    weight = 2 if key.mixed_shards else FLOAT_BYTES[key.weights_dtype]
    upcast = key.quant != "" and stack.kbit_upcast in ("norms", "all") and not key.mixed_shards
    adapter = 2 if key.mixed_shards else FLOAT_BYTES[key.adapter_dtype]
    recipe = Recipe(
        full=key.method == "full",
        stream_bytes=4 if upcast or key.wide_outside else weight,
        weight_bytes=weight,
        norm_bytes=2 if key.mixed_shards else storage.norm_bytes,
        compute_bytes=compute,
        autocast=key.autocast != "none",
        adapter_bytes=0 if key.method == "full" else adapter,
        rank=key.lora_rank,
        modules=placed.modules,
        stacked=placed.parameters,
        dropout=key.dropout,
        quant=key.quant,
        double_quant=key.double_quant,
        attention=key.attention,
        flash_kernel=key.flash_kernel,
        fused=_fused(key, stack),
        several=key.several,
        repeats_kv=stack.repeats_kv if key.attention == "sdpa" else model.model_type in stack.flash_repeats_kv,
        fused_experts=stack.fused_experts,
        stored_bytes=2 if key.mixed_shards else storage.experts_bytes,
        keeps_4bit_input=stack.keeps_4bit_input,
        torchao=storage.torchao,
        keeps_dequantized=stack.keeps_dequantized and "lora" in _fused(key, stack),
        ranks=key.ranks,
    )
    if key.mixed_shards and key.units:  # which casts what enters a layer
        return recipe
    widest = max(block_tape(block, model.hidden_size, recipe).result.e for block in model.blocks)
    return recipe._replace(stream_bytes=max(recipe.stream_bytes, widest))


def _fused(key: ProfileKey, stack: Behaviour) -> frozenset[str]:
    """What runs as one kernel; of fused adapters nothing where there are none."""
    parts = frozenset(stack.fused_parts) if key.kernels == "fused" else frozenset[str]()
    return parts - {"lora", "lora_quantized", "lora_mlp"} if key.method == "full" else parts


@lru_cache(maxsize=4096)
def _profile(model: ModelSpec, key: ProfileKey, stack: Behaviour) -> Profile:
    recipe, storage = recipe_of(model, key, stack), storage_of(key, stack)
    inventory = take_inventory(model, storage)
    layers = tuple(
        _layer(block, block_tape(block, model.hidden_size, recipe), key.checkpointing, stack) for block in model.blocks
    )
    hidden = hidden_tape(model, recipe)
    full, logits = loss_tape_of(model, key, stack, recipe)
    held = (logits,)
    held_again = held if stack.holds_logits else ()
    scoring, heading = _around_head(full, held_again) if key.units else ((), ())
    tied = model.tie_word_embeddings and key.method == "full"
    return Profile(
        inventory=inventory,
        shared=inventory if key.ranks.expert == 1 else take_inventory(with_all_experts(model), storage),
        recipe=recipe,
        layers=layers,
        hidden=_part(hidden, own_source=True),
        loss=_part(full, own_source=True, held=held, held_in_backward=held_again),
        scoring=scoring,
        heading=heading,
        held_logits=logits.size if stack.holds_logits else ZERO,
        hidden_bytes=hidden.result.e,
        head_trained=_head_trained(model, key),
        head_bytes=_head_bytes(key, stack),
        tied_grad=model.embeddings[0].params * (4 if key.wide_outside else recipe.weight_bytes) if tied else 0,
        autocast_cache=_autocast_cache(model, inventory, recipe) if key.checkpointing else 0,
        stream=Size(token=model.hidden_size // recipe.ranks.sequence * recipe.stream_bytes),
        turns=turns_at(model, layers, _places(model)),
        inner_turns=turns_at(model, layers, _neighbours(model)) if key.units else (),
        all_kept=_kept_by(model.layout, layers),
        largest_block=max(block_params(block) for block in model.blocks),
    )


def loss_tape_of(
    model: ModelSpec, key: ProfileKey, stack: Behaviour, recipe: Recipe, *, fused: bool = False
) -> LossTape:
    """The tape of final norm, head and full loss under a profile's settings, by its recipe.

    ``fused``: by a kernel that takes head and loss in one and shifts labels in place of logits.
    """
    shifted = stack.logits_shift_copy and key.several and not fused
    if fused:
        recipe = recipe._replace(fused=recipe.fused | {"loss"})
    return loss_tape(model, recipe, _head_bytes(key, stack), _head_trained(model, key), stack.logits_upcast, shifted)


def _head_trained(model: ModelSpec, key: ProfileKey) -> bool:
    return key.method == "full" or model.lm_head.name in key.modules_to_save


def _head_bytes(key: ProfileKey, stack: Behaviour) -> int:
    return 2 if key.mixed_shards else storage_of(key, stack).tables_bytes


def _layer(block: Block, tape: Tape, checkpointed: bool, stack: Behaviour) -> Part:
    """One kind of layer. Hooks of a checkpoint free what is saved, not what hangs on a node; re-entry has no node."""
    part = _part(tape, own_source=not checkpointed)
    if not checkpointed:
        return part
    attached = () if stack.reentrant_checkpoint else tape.attached()
    aside = () if tape.aside is None else (tape.aside,)
    return part._replace(
        lasting=Instant(total(tensor.size for tensor in attached)),
        aside=total(tensor.size for tensor in aside) if block.attention.returns_probabilities else ZERO,
        forward=forward_instants(tape, keep=False, held=(*attached, *aside)),
    )


def _part(
    tape: Tape, *, own_source: bool, held: tuple[Tensor, ...] = (), held_in_backward: tuple[Tensor, ...] = ()
) -> Part:
    kept = tape.saved_by_owner(own_source=own_source)
    return Part(
        kept=kept,
        lasting=kept,
        aside=ZERO,
        forward=forward_instants(tape, keep=False, held=held, own_source=own_source),
        recompute=forward_instants(tape, keep=True, held=held, own_source=own_source),
        backward=backward_instants(tape, held=held_in_backward, own_source=own_source),
        waiting=gradients_before_recompute(tape),
        weight_grad=tape.weight_grad(),
    )


def _autocast_cache(model: ModelSpec, inventory: Inventory, recipe: Recipe) -> int:
    """Two bytes per trained fp32 entry of the layers' matrices.

    Fused adapters are cast in their kernel, the head on its tape.

    Falcon's matrices multiply by a transposed view, which autocast does not keep.
    """
    if not recipe.autocast:
        return 0
    if not recipe.full:
        return 2 * inventory.trainable if recipe.adapter_bytes == 4 and not _fuses_adapters(recipe) else 0
    if recipe.weight_bytes != 4:
        return 0
    return 2 * sum(
        count * sum(linear.weight_params for linear in block.linears if not linear.subclass)
        for block, count in zip(model.blocks, model.block_counts, strict=True)
    )


def _fuses_adapters(recipe: Recipe) -> bool:
    return "lora" in recipe.fused or (recipe.quant != "" and "lora_quantized" in recipe.fused)


def _around_head(tape: Tape, held: tuple[Tensor, ...]) -> tuple[tuple[Instant, ...], tuple[Instant, ...]]:
    """Instants of the loss's backward before the head's own begins, and from there on."""
    head = next(place for place, op in enumerate(tape.ops) if op.output.name == "logits") + 1
    below = Tape(tape.source, tape.ops[:head])
    kept = below.saved_by_owner(own_source=True)
    above = backward_instants(Tape(below.result, tape.ops[head:]), held=held, own_source=True)
    scoring = tuple(
        Instant(kept.activations + one.activations, kept.logits + one.logits, one.temporaries) for one in above
    )
    return scoring, backward_instants(below, held=held, own_source=True)


def _places(model: ModelSpec) -> set[int]:
    """The first and the last layer of each kind."""
    kinds = range(len(model.blocks))
    last = len(model.layout) - 1
    return {place for kind in kinds for place in (model.layout.index(kind), last - model.layout[::-1].index(kind))}


def _neighbours(model: ModelSpec) -> set[int]:
    """Layers after the first and before the last of each kind."""
    last = len(model.layout) - 1
    beside = {place + step for place in _places(model) for step in (1, -1)}
    return (beside & set(range(last + 1))) - _places(model)


def turns_at(model: ModelSpec, layers: tuple[Part, ...], places: set[int]) -> tuple[Turn, ...]:
    """The layers at some places."""
    return tuple(
        Turn(
            model.layout[place],
            place,
            _kept_by(model.layout[:place], layers),
            sum(layers[kind].weight_grad for kind in model.layout[place + 1 :]),
        )
        for place in sorted(places)
    )


def _kept_by(kinds: tuple[int, ...], layers: tuple[Part, ...]) -> Instant:
    counts = [(part.lasting, kinds.count(kind)) for kind, part in enumerate(layers)]
    return Instant(
        total(kept.activations.times(count) for kept, count in counts),
        total(kept.logits.times(count) for kept, count in counts),
    )
