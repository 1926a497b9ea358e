"""Kinds of layers, each once: what one keeps and what can be its peak, and where such layers stand in the stack."""

from typing import NamedTuple

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
from planner.spec import Behaviour, Block, ModelSpec


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


def layer_part(block: Block, tape: Tape, checkpointed: bool, stack: Behaviour) -> Part:
    """One kind of layer. Hooks of a checkpoint free what is saved, not what hangs on a node; re-entry has no node."""
    part = part_of(tape, own_source=not checkpointed)
    if not checkpointed:
        return part
    attached = () if stack.reentrant_checkpoint else tape.attached()
    aside = () if tape.aside is None else (tape.aside,)
    return part._replace(
        lasting=Instant(total(tensor.size for tensor in attached)),
        aside=total(tensor.size for tensor in aside) if block.attention.returns_probabilities else ZERO,
        forward=forward_instants(tape, keep=False, held=(*attached, *aside)),
    )


def part_of(
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


def ends_of_kinds(model: ModelSpec) -> set[int]:
    """The first and the last layer of each kind."""
    kinds = range(len(model.blocks))
    last = len(model.layout) - 1
    return {place for kind in kinds for place in (model.layout.index(kind), last - model.layout[::-1].index(kind))}


def beside_ends(model: ModelSpec) -> set[int]:
    """Layers after the first and before the last of each kind."""
    last = len(model.layout) - 1
    beside = {place + step for place in ends_of_kinds(model) for step in (1, -1)}
    return (beside & set(range(last + 1))) - ends_of_kinds(model)


def turns_at(model: ModelSpec, layers: tuple[Part, ...], places: set[int]) -> tuple[Turn, ...]:
    """The layers at some places."""
    return tuple(
        Turn(
            model.layout[place],
            place,
            kept_by(model.layout[:place], layers),
            sum(layers[kind].weight_grad for kind in model.layout[place + 1 :]),
        )
        for place in sorted(places)
    )


def kept_by(kinds: tuple[int, ...], layers: tuple[Part, ...]) -> Instant:
    counts = [(part.lasting, kinds.count(kind)) for kind, part in enumerate(layers)]
    return Instant(
        total(kept.activations.times(count) for kept, count in counts),
        total(kept.logits.times(count) for kept, count in counts),
    )
