"""Phase ``forward``: from the embedding to the last layer's output."""

from planner.closed_form.offload import inputs_on_card, saved_on_card
from planner.closed_form.parts import Turn
from planner.closed_form.rank import COMPUTE_BYTES
from planner.closed_form.step import Step
from planner.formulas.tape import Instant
from planner.result import Memory


def forward_phase(step: Step) -> Memory:
    """Layer inputs (checkpointed) or everything saved, and the last layer's own peak."""
    buffers = step.shards.forward
    return max((in_layer(step, turn, buffers) for turn in step.profile.turns), key=lambda memory: memory.total)


def in_layer(step: Step, turn: Turn, buffers: int) -> Memory:
    """The largest instant of a layer, with an engine's ``buffers``."""
    part = step.profile.layers[turn.kind]
    before = between_layers(step, turn.kept_before, layer_inputs=turn.before + 1)
    instant = step.largest(part.forward if step.scenario.train.gradient_checkpointing else part.recompute)
    if turn.before:
        before = before._replace(activations=before.activations + step.bytes(part.aside))
    return step.plus(before, instant, extra=step.profile.autocast_cache + buffers)


def between_layers(step: Step, kept: Instant, *, layer_inputs: int, again: bool = False) -> Memory:
    """States and what lasts of the layers done so far, ``layer_inputs`` inputs among it when they are checkpointed.

    In the forward pass a caller may still hold the last step's outputs; in backward (``again``) it holds this step's.
    """
    before = step.static(gradients=standing_gradients(step), held=not again)
    lasting = step.front + step.beside
    if step.scenario.train.gradient_checkpointing:
        held_inputs = inputs_on_card(step.scenario, layer_inputs)
        lasting += held_inputs * step.bytes(step.profile.stream) - step.narrow_first_input
    return Memory(
        before.weights,
        before.adapters,
        before.gradients,
        before.optimizer,
        before.activations + lasting + saved_on_card(step.scenario, step.bytes(kept.activations)),
        step.bytes(kept.logits) + step.held_logits,
        before.temporaries + step.bytes(kept.temporaries),
    )


def standing_gradients(step: Step) -> int:
    """Gradients that exist before backward begins: those of earlier micro-steps.

    Trainers reduce them once a step, so under FSDP every rank holds them whole until then, as wide as it computes:
    accelerate 1.15 accelerator.py, no_sync. A bare loop reduces each time, and so did FSDP2 until accelerate 1.11.
    """
    train, inventory = step.scenario.train, step.profile.inventory
    if train.grad_accumulation == 1:
        return 0
    if not train.shards_by_fsdp or step.scenario.reduces_each:
        return step.shards.gradients
    if step.shards.units is not None:
        return step.shards.units.total("whole")
    return inventory.gradients if train.autocast == "none" else COMPUTE_BYTES * inventory.trainable
