"""Phases under ZeRO, whose buffers come and go inside them: the moments at which a rank can hold most."""

from planner.closed_form.flat import Flat
from planner.closed_form.forward import between_layers, in_layer
from planner.closed_form.loss import end_of_layers, fused_backward, scored
from planner.closed_form.parts import Turn, turns_at
from planner.closed_form.step import Step, with_buffers
from planner.formulas.coordinator import AFTER, BEFORE
from planner.formulas.tape import Instant
from planner.result import Memory, Phase


def phases(step: Step, flat: Flat) -> dict[Phase, Memory]:
    """Forward, loss and backward, each at its largest moment."""
    turns = step.profile.turns + turns_at(step.scenario.model, step.profile.layers, flat.fullest)
    backward = [*_head(step, flat), *_end(step, flat)]
    for turn in turns:
        backward += _layer(step, flat, turn)
    moments: dict[Phase, list[Memory]] = {
        "forward": _forward(step, flat, turns),
        "loss": _loss(step, flat),
        "backward": backward,
    }
    return {name: max(found, key=lambda memory: memory.total) for name, found in moments.items()}


# ---------------------------------------------------------------- gradients


def gradients_before_backward(step: Step, flat: Flat) -> int:
    """Gradients that stand: those of earlier micro-steps, and stage 3's buffer always.

    Stage 1 reduces at the last micro-step only, so until then every rank has them whole.
    """
    if flat.stage == 3:
        return flat.gradients
    if step.scenario.train.grad_accumulation == 1:
        return 0
    return flat.gradients if flat.stage == 2 else flat.e * flat.trained


def _kept(step: Step, flat: Flat, made: int) -> int:
    """Gradients in backward, when ``made`` bytes of whole ones have been made: stages 2 and 3 reduce them at once."""
    stand = gradients_before_backward(step, flat)
    if flat.stage == 1:
        return stand + (min(made, step.shards.largest_gradient) if stand else made)
    return stand if flat.stage == 3 else stand + flat.gradients


def _buffers(flat: Flat, which: str, place: int) -> int:
    """The bucket, which stage 3 keeps all the time, and gathered parameters."""
    return (flat.bucket if flat.stage < 3 else 0) + flat.live(which, place)


def _beside(flat: Flat, place: int) -> int:
    """Whole gradients that wait to be reduced, and copies of them."""
    return 0 if flat.stage == 1 else flat.reduced.get(place, 0)


# ---------------------------------------------------------------- forward and loss


def _forward(step: Step, flat: Flat, turns: tuple[Turn, ...]) -> list[Memory]:
    stand = gradients_before_backward(step, flat)
    moments = [with_buffers(between_layers(step, Instant(), layer_inputs=1), flat.copying("forward", BEFORE))]
    for turn in turns:
        before = between_layers(step, turn.kept_before, layer_inputs=turn.before + 1)
        moments.append(with_buffers(before, flat.copying("forward", turn.before)))
        moments.append(in_layer(step, turn, flat.live("forward", turn.before)))
    return [memory._replace(gradients=stand) for memory in moments]


def _loss(step: Step, flat: Flat) -> list[Memory]:
    end = end_of_layers(step)._replace(gradients=gradients_before_backward(step, flat))
    end = with_buffers(end, step.profile.autocast_cache)
    arriving, before = with_buffers(end, flat.copying("forward", AFTER)), with_buffers(end, flat.live("forward", AFTER))
    return [arriving, scored(step, before)]


# ---------------------------------------------------------------- backward


def _head(step: Step, flat: Flat) -> list[Memory]:
    """The loss and the head before any gradient is reduced; then the head's gradient waits, and is reduced."""
    before = end_of_layers(step, again=True)
    made = step.profile.loss.weight_grad
    left = with_buffers(
        before, _buffers(flat, "backward", AFTER) + _beside(flat, AFTER) + step.bytes(step.profile.stream)
    )
    left = left._replace(gradients=_kept(step, flat, made))
    before = with_buffers(before, flat.live("backward", AFTER))
    before = before._replace(gradients=gradients_before_backward(step, flat))
    if step.scenario.train.loss == "full":
        instant = step.largest(step.profile.loss.backward)
        return [step.plus(before._replace(logits=0), instant, extra=instant.weight_grad), left]
    return [fused_backward(step, before), left]


def _layer(step: Step, flat: Flat, turn: Turn) -> list[Memory]:
    """A layer is computed again, its gradients are made, wait, and are reduced."""
    place, part = turn.before, step.profile.layers[turn.kind]
    checkpointing = step.scenario.train.gradient_checkpointing
    lasting = step.profile.all_kept if checkpointing else turn.kept_before
    memory = between_layers(step, lasting, layer_inputs=place + 1, again=True)
    stream = step.bytes(step.profile.stream)
    memory = with_buffers(memory, step.recomputed_output)
    made = turn.weight_grad_after + step.profile.loss.weight_grad
    moments = []
    for instant in part.backward:
        whole = instant.weight_grad
        beside = min(_beside(flat, place), whole)
        kept = memory._replace(gradients=_kept(step, flat, made + whole))
        moments.append(step.plus(kept, instant, extra=_buffers(flat, "backward", place) + beside))
    kept = memory._replace(gradients=_kept(step, flat, made))
    moments.append(with_buffers(kept, _buffers(flat, "backward", place) + _beside(flat, place) + stream))
    if checkpointing:
        moments.append(
            with_buffers(kept, flat.copying("recompute", place) + stream + (flat.bucket if flat.stage < 3 else 0))
        )
        again, waiting = step.largest(part.recompute), step.bytes(part.waiting)
        moments.append(step.plus(kept, again, extra=_buffers(flat, "recompute", place) + waiting))
    return moments


def _end(step: Step, flat: Flat) -> list[Memory]:
    """The embedding's gradient; then stage 1 reduces, and copies what this rank keeps."""
    static = step.static()._replace(logits=step.held_logits)
    stream, whole = step.bytes(step.profile.stream), flat.e * flat.trained
    buffers = _buffers(flat, "backward", BEFORE)
    last = with_buffers(static, buffers + stream + _arriving_last(step, flat))
    last = last._replace(gradients=_kept(step, flat, whole) if flat.stage > 1 else whole)
    if flat.stage > 1:
        return [last]
    return [last, with_buffers(static, buffers + flat.gradients)._replace(gradients=whole)]


def _arriving_last(step: Step, flat: Flat) -> int:
    """What lies beside the gradients that are kept when the embedding's arrives.

    A tied matrix's two gradients meet in a sum, which then is reduced alone; stage 1 keeps it, or adds it into the one
    that stands.
    """
    tied = step.profile.tied_grad
    if flat.stage > 1:
        return max(_beside(flat, BEFORE), 3 * tied)
    return (3 if gradients_before_backward(step, flat) else 2) * tied
