"""Phase ``loss``: final norm, language-model head and cross entropy, until backward begins."""

from planner.closed_form.forward import between_layers
from planner.closed_form.step import Step, with_buffers
from planner.formulas.loss import (
    Head,
    LossBytes,
    checkpointed_chunks,
    chunked_outputs,
    cut_fused,
    liger_fused,
    trl_fused,
    unsloth_fused,
)
from planner.result import Memory
from planner.spec import Scenario


def loss_phase(step: Step) -> Memory:
    """The peak of the head and the loss in the forward direction."""
    before = with_buffers(end_of_layers(step), step.shards.loss)
    inside = with_buffers(before, step.profile.autocast_cache)
    if not step.profile.to_logits:
        return scored(step, inside)
    head = step.plus(inside, step.largest(step.profile.to_logits))
    return max(head, scored(step, before), key=lambda memory: memory.total)


def scored(step: Step, before: Memory) -> Memory:
    """``before``, with the head and the loss at their largest in the forward direction."""
    if step.scenario.train.loss == "full":
        return step.plus(before, step.largest(step.profile.loss.recompute))
    hidden, head = step.plus(before, step.profile.hidden.kept), head_bytes(step)
    return hidden._replace(
        gradients=hidden.gradients + head.gradients,
        activations=hidden.activations + head.forward - head.forward_logits - head.gradients,
        logits=hidden.logits + head.forward_logits,
    )


def fused_backward(step: Step, before: Memory) -> Memory:
    """``before``, with the backward of a head that makes no full logits at its largest."""
    hidden, head = step.plus(before, step.profile.hidden.kept), head_bytes(step)
    return hidden._replace(
        gradients=hidden.gradients + head.gradients,
        activations=hidden.activations + head.kept - head.gradients,
        logits=hidden.logits + head.backward_logits,
        temporaries=hidden.temporaries + head.backward - head.kept - head.backward_logits,
    )


def end_of_layers(step: Step, *, again: bool = False) -> Memory:
    """All layers done, their last output not yet normalised away."""
    layers = step.scenario.model.num_hidden_layers
    return between_layers(step, step.profile.all_kept, layer_inputs=layers, again=again)


def head_bytes(step: Step) -> LossBytes:
    """Bytes of the head that makes no full logits, or of the loss that takes them in chunks: each stack's own."""
    scenario, profile = step.scenario, step.profile
    head = Head(
        t=scenario.train.scored_tokens,
        h=scenario.model.lm_head.d_in,
        V=scenario.model.vocab_size,
        e=profile.recipe.compute_bytes if profile.recipe.autocast else profile.hidden_bytes,
        hidden_bytes=profile.hidden_bytes,
        weight_bytes=profile.head_bytes,
        trained=profile.head_trained,
    )
    if scenario.train.loss == "chunked":
        return _chunked(head, scenario)
    kind = scenario.stack.fused_loss
    if kind == "liger":
        return _liger(step, head)
    if kind == "unsloth":
        return unsloth_fused(head, free=scenario.cluster.usable_bytes - step.static().total)
    return trl_fused(head) if kind == "trl" else cut_fused(head)


def _chunked(head: Head, scenario: Scenario) -> LossBytes:
    if scenario.stack.chunked_loss == "outputs":
        return chunked_outputs(head, compiled=scenario.train.kernels == "compiled")
    return checkpointed_chunks(head, upcasts_weight=scenario.stack.chunks_upcast_head)


def _liger(step: Step, head: Head) -> LossBytes:
    found, train = liger_fused(head), step.scenario.train
    alone = train.sharding == "none" and train.grad_accumulation == 1 and not step.profile.tied_grad
    return found if alone else found._replace(gradients=0)  # it is added to another, or reduced
