"""Phase ``backward``: the loss's own backward, then the layers from last to first, then the embedding."""

from planner.closed_form.forward import between_layers, standing_gradients
from planner.closed_form.loss import end_of_layers, fused_backward
from planner.closed_form.parts import Turn
from planner.closed_form.step import Step, with_buffers
from planner.result import Memory


def backward_phase(step: Step) -> Memory:
    """The largest instant of backward."""
    instants = [_loss(step), _end(step)]
    instants += [_layer(step, turn) for turn in step.profile.turns]
    return max(instants, key=lambda memory: memory.total)


def _loss(step: Step) -> Memory:
    before = _without_held(step, end_of_layers(step, again=True))
    before = with_buffers(before, step.shards.loss)
    if step.scenario.train.loss == "full":
        instant = step.largest(step.profile.loss.backward)
        made = _new_gradients(step, instant.weight_grad)
        memory = step.plus(before, instant)
        return memory._replace(gradients=memory.gradients + made)
    return fused_backward(step, before)


def _without_held(step: Step, memory: Memory) -> Memory:
    """The full loss's tape counts held logits itself."""
    return memory._replace(logits=0) if step.scenario.train.loss == "full" else memory


def _layer(step: Step, turn: Turn) -> Memory:
    """One layer's backward: layers before it still keep theirs, layers after it have left their gradients."""
    part = step.profile.layers[turn.kind]
    # what hangs on nodes goes with the graph, when the caller drops the loss
    lasting = step.profile.all_kept if step.scenario.train.gradient_checkpointing else turn.kept_before
    memory = between_layers(step, lasting, layer_inputs=_layer_inputs(step, turn.before), again=True)
    made = turn.weight_grad_after + step.profile.loss.weight_grad
    instant = step.largest(part.backward)
    extra = step.shards.backward + step.recomputed_output
    candidates = [_with_gradients(step, step.plus(memory, instant, extra=extra), made + instant.weight_grad)]
    if step.scenario.train.gradient_checkpointing:
        again = step.plus(memory, step.largest(part.recompute), extra=extra + step.bytes(part.waiting))
        candidates.append(_with_gradients(step, again, made))
    return max(candidates, key=lambda found: found.total)


def _layer_inputs(step: Step, done: int) -> int:
    """Layer inputs alive in the backward of layer ``done``: its own and those before it.

    FSDP1 hooks the inputs of frozen layers; where reentrant checkpoints made them leaves, they stay with their
    gradients to the end (torch distributed/fsdp/_runtime_utils.py, register_multi_grad_hook).
    """
    train, stack = step.scenario.train, step.scenario.stack
    hooked = train.shards_by_fsdp and stack.fsdp_version == 1 and train.uses_adapters and step.recomputed_output > 0
    layers = step.scenario.model.num_hidden_layers
    return layers + max(layers - 2 - done, 0) if hooked else done + 1


def _with_gradients(step: Step, memory: Memory, made: int) -> Memory:
    return memory._replace(gradients=memory.gradients + _new_gradients(step, made))


def _new_gradients(step: Step, made: int) -> int:
    """Bytes of ``made`` gradients on this rank; with accumulation they are added into those that stand."""
    if standing_gradients(step):
        return min(made, step.shards.largest_gradient)
    total = max(step.profile.inventory.gradients, 1)
    return min(made, total) * step.shards.gradients // total


def _end(step: Step) -> Memory:
    """All gradients made; a tied embedding's two gradients still lie beside their sum.

    The sum becomes the gradient, or is added into the one that stands from the micro-steps before.
    """
    static = step.static(gradients=step.shards.gradients)
    extra = (3 if standing_gradients(step) else 2) * step.profile.tied_grad + step.bytes(step.profile.stream)
    return static._replace(
        activations=static.activations + step.beside,
        logits=step.held_logits,
        temporaries=static.temporaries + extra + step.shards.backward,
    )
