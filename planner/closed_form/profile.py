"""Everything about a scenario that does not depend on the batch, worked out once and kept."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from planner.closed_form.divided import with_all_experts
from planner.closed_form.inventory import Inventory, take_inventory
from planner.closed_form.parts import Part, Turn, beside_ends, ends_of_kinds, kept_by, layer_part, part_of, turns_at
from planner.closed_form.recipe import ProfileKey, key_of, recipe_of, storage_of
from planner.formulas.blocks import block_tape
from planner.formulas.head import LossTape, hidden_tape, loss_tape
from planner.formulas.operations import Recipe
from planner.formulas.pairs import Scored, pairs_tape
from planner.formulas.params import block_params
from planner.formulas.tape import Instant, Size, Tape, Tensor, backward_instants, forward_instants, total
from planner.spec import Behaviour, ModelSpec, Scenario


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
    beside_reference: Instant
    """What stands of head and full loss while a reference passes: for backward, and in the trainer's variables."""
    to_logits: tuple[Instant, ...]
    """Moments of final norm and head, where logits leave the model before they are scored; else empty."""
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


@lru_cache(maxsize=4096)
def _profile(model: ModelSpec, key: ProfileKey, stack: Behaviour) -> Profile:
    recipe, storage = recipe_of(model, key, stack), storage_of(key, stack)
    inventory = take_inventory(model, storage)
    layers = tuple(
        layer_part(block, block_tape(block, model.hidden_size, recipe), key.checkpointing, stack)
        for block in model.blocks
    )
    hidden = hidden_tape(model, recipe)
    full, held, held_again, beside = _loss_of(model, key, stack, recipe)
    scoring, heading = _around_head(full, held_again) if key.units else ((), ())
    tied = model.tie_word_embeddings and key.method == "full"
    return Profile(
        inventory=inventory,
        shared=inventory if key.ranks.expert == 1 else take_inventory(with_all_experts(model), storage),
        recipe=recipe,
        layers=layers,
        hidden=part_of(hidden, own_source=True),
        loss=part_of(full, own_source=True, held=held, held_in_backward=held_again),
        scoring=scoring,
        heading=heading,
        held_logits=total(tensor.size for tensor in held_again),
        beside_reference=beside,
        to_logits=_to_logits(full, keep=True) if key.pairs else (),
        hidden_bytes=hidden.result.e,
        head_trained=_head_trained(model, key),
        head_bytes=_head_bytes(key, stack),
        tied_grad=model.embeddings[0].params * (4 if key.wide_outside else recipe.weight_bytes) if tied else 0,
        autocast_cache=_autocast_cache(model, inventory, recipe) if key.checkpointing else 0,
        stream=Size(token=model.hidden_size // recipe.ranks.sequence * recipe.stream_bytes),
        turns=turns_at(model, layers, ends_of_kinds(model)),
        inner_turns=turns_at(model, layers, beside_ends(model)) if key.units else (),
        all_kept=kept_by(model.layout, layers),
        largest_block=max(block_params(block) for block in model.blocks),
    )


class _Loss(NamedTuple):
    tape: Tape
    held: tuple[Tensor, ...]
    """By the model's outputs, until the loss is there."""
    held_again: tuple[Tensor, ...]
    """By a caller, until the next step."""
    beside_reference: Instant


def _loss_of(model: ModelSpec, key: ProfileKey, stack: Behaviour, recipe: Recipe) -> _Loss:
    """Head and full loss, of pairs or of a likelihood."""
    if key.pairs:
        scored = pairs_tape_of(model, key, stack, recipe, metrics=key.alone)
        return _Loss(scored.tape, scored.held, scored.stays, scored.beside_reference)
    full, logits = loss_tape_of(model, key, stack, recipe)
    held = (logits,)
    return _Loss(full, held, held if stack.holds_logits else (), full.saved_by_owner(own_source=True))


def pairs_tape_of(
    model: ModelSpec, key: ProfileKey, stack: Behaviour, recipe: Recipe, *, metrics: bool = False
) -> Scored:
    """The tape of final norm, head and the scores of pairs, of policy or reference; ``metrics`` follow the last pass.

    accelerate wraps the forward pass in autocast and makes its outputs fp32, but not under DeepSpeed, nor under FSDP2
    (accelerate 1.15 accelerator.py, prepare_model, _prepare_fsdp2).
    """
    assert key.pairs, "asked for pairs only"
    wide = stack.logits_upcast == "in_place" or key.pairs == "log_softmax" or (recipe.autocast and not key.units)
    return pairs_tape(
        model,
        recipe,
        _head_bytes(key, stack),
        _head_trained(model, key),
        key.pairs,
        wide,
        stack.pairs_with_states,
        metrics,
    )


@lru_cache(maxsize=1024)
def scored_reference(
    model: ModelSpec, key: ProfileKey, stack: Behaviour
) -> tuple[tuple[Instant, ...], tuple[Instant, ...]]:
    """Moments of a reference's head, and of its scores and the metrics after them, that can be their peak."""
    scored = pairs_tape_of(model, key, stack, recipe_of(model, key, stack), metrics=True)
    outside = forward_instants(scored.tape, keep=False, held=scored.held, own_source=True)
    return _to_logits(scored.tape, keep=False), outside


def _to_logits(tape: Tape, *, keep: bool) -> tuple[Instant, ...]:
    return forward_instants(Tape(tape.source, tape.ops[: _head_place(tape)]), keep=keep, own_source=True)


def _head_place(tape: Tape) -> int:
    """How many operations of a tape end with the head's product."""
    return next(place for place, op in enumerate(tape.ops) if op.output.name == "logits") + 1


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
    head = _head_place(tape)
    below = Tape(tape.source, tape.ops[:head])
    kept = below.saved_by_owner(own_source=True)
    above = backward_instants(Tape(below.result, tape.ops[head:]), held=held, own_source=True)
    scoring = tuple(
        Instant(kept.activations + one.activations, kept.logits + one.logits, one.temporaries) for one in above
    )
    return scoring, backward_instants(below, held=held, own_source=True)
