"""Phase ``forward``: from the embedding to the last layer's output."""

from planner.closed_form.profile import all_kept
from planner.closed_form.step import Step
from planner.formulas.tape import Instant
from planner.result import Memory


def forward_phase(step: Step) -> Memory:
    """Layer inputs (checkpointed) or everything saved, and the last layer's own peak."""
    profile = step.profile
    return max(
        (_at_end_of(step, profile.turns[index]) for index in range(len(profile.turns))), key=lambda memory: memory.total
    )


def _at_end_of(step: Step, turn: tuple[int, tuple[int, ...], int]) -> Memory:
    kind, before, _ = turn
    memory = step.plus(between_layers(step, before, layer_inputs=sum(before) + 1), _transient(step, kind))
    return memory._replace(temporaries=memory.temporaries + step.profile.autocast_cache + step.shards.forward)


def _transient(step: Step, kind: int) -> Instant:
    part = step.profile.layers[kind]
    return step.largest(part.forward if step.scenario.train.gradient_checkpointing else part.recompute)


def between_layers(step: Step, done: tuple[int, ...], *, layer_inputs: int, again: bool = False) -> Memory:
    """States and what ``done`` layers of each kind keep: their inputs when checkpointed, else all they saved.

    ``layer_inputs`` counts the checkpointed inputs. In the forward
    pass a caller may still hold the last step's outputs; in backward (``again``) it holds this step's.
    """
    held = step.bytes(step.profile.held_logits)
    static = step.static(gradients=standing_gradients(step), held=not again)
    if step.scenario.train.gradient_checkpointing:
        inputs = layer_inputs * step.bytes(step.profile.stream) - step.narrow_first_input
        return static._replace(activations=static.activations + inputs, logits=held)
    kept = step.plus(static, all_kept(step.profile, done))
    return kept._replace(logits=kept.logits + held)


def standing_gradients(step: Step) -> int:
    """Gradients that exist before backward begins: those of earlier micro-steps."""
    return step.shards.gradients if step.scenario.train.grad_accumulation > 1 else 0
