"""Phases under FSDP2, whose buffers come and go inside them: the moments at which a rank can hold most."""

from planner.closed_form.forward import between_layers, in_layer
from planner.closed_form.loss import end_of_layers, fused_backward, scored
from planner.closed_form.parts import Turn
from planner.closed_form.step import Step, with_buffers
from planner.closed_form.units import Units
from planner.formulas.tape import Instant
from planner.result import Memory, Phase


def phases(step: Step, units: Units) -> dict[Phase, Memory]:
    """Forward, loss and backward, each at its largest moment."""
    moments: dict[Phase, list[Memory]] = {
        "forward": _forward(step, units),
        "loss": _loss(step, units),
        "backward": [*_head(step, units), *_layers(step, units), *_end(step, units)],
    }
    return {name: max(found, key=lambda memory: memory.total) for name, found in moments.items()}


def _forward(step: Step, units: Units) -> list[Memory]:
    """The embedding's, every layer's beginning and the layer itself."""
    left, first = _left_by_rollout(step, units)
    gone = units.tail.gathered if units.tied and _after_rollout(step) else 0
    moments = [with_buffers(between_layers(step, Instant(), layer_inputs=1), first)]
    for turn in _turns(step):
        before = with_buffers(between_layers(step, turn.kept_before, layer_inputs=turn.before + 1), left)
        moments += [
            with_buffers(before, units.entering(turn.before) - (gone if turn.before == 0 else 0)),
            in_layer(step, turn, units.in_layer(turn.before) + left),
        ]
    return moments


def _after_rollout(step: Step) -> bool:
    """Whether the micro-step that reduces gradients is the one that follows GRPO's completions."""
    train = step.scenario.train
    return train.objective == "grpo" and train.grad_accumulation == 1


def _left_by_rollout(step: Step, units: Units) -> tuple[int, int]:
    """The head that GRPO's completions leave whole, since no backward pass follows; and what the embedding gathers.

    Only a step's first micro-batch finds it: backward passes put it back among the ranks.
    """
    train = step.scenario.train
    if train.objective != "grpo":
        return 0, units.at_embedding()
    if units.tied:
        return 0, units.standing(0) if _after_rollout(step) else units.at_embedding()
    return units.tail.gathered, units.at_embedding() + units.tail.gathered


def _loss(step: Step, units: Units) -> list[Memory]:
    """The head's beginning, head and loss."""
    before = end_of_layers(step)
    if _after_rollout(step):  # since which the head is whole
        return [scored(step, with_buffers(before, units.scoring() + units.last.gathered))]
    if step.profile.to_logits:
        return [with_buffers(before, units.entering_head()), scored(step, with_buffers(before, units.scoring()))]
    entering, working = with_buffers(before, units.entering_head()), with_buffers(before, units.at_head())
    return [entering, scored(step, working)]


def _layers(step: Step, units: Units) -> list[Memory]:
    return [moment for turn in _turns(step) for moment in _layer(step, units, turn)]


def _turns(step: Step) -> tuple[Turn, ...]:
    return step.profile.turns + step.profile.inner_turns


# ---------------------------------------------------------------- gradients


def accumulates_whole(step: Step) -> bool:
    """Whole gradients stand until the last micro-step, which alone reduces them."""
    return step.scenario.train.grad_accumulation > 1 and not step.scenario.reduces_each


def _standing(step: Step, units: Units, place: int) -> int:
    """Gradients besides those of a layer that is at work, when the layers after it are reduced."""
    train = step.scenario.train
    if train.grad_accumulation > 1 and not accumulates_whole(step):
        return units.total("trained") + units.summed(place)
    found = units.gradients_after(place) + units.waiting
    if accumulates_whole(step):
        outer = units.root.whole + units.embedding.whole + (units.tail.whole if units.tied else 0)
        return found + outer + units.of_layers("whole", 0, place + 1)
    return found


def _made(step: Step, count: int) -> int:
    """New whole gradients: added into those that stand one after the other, where some do."""
    return min(count, step.shards.largest_gradient) if accumulates_whole(step) else count


# ---------------------------------------------------------------- backward


def _head(step: Step, units: Units) -> list[Memory]:
    """The loss before the head asks for the last layer, the head itself, and its reduction."""
    before = end_of_layers(step, again=True)
    left = with_buffers(before, units.leaving_head(stands=accumulates_whole(step)))
    if step.scenario.train.loss == "full":
        before = before._replace(logits=0)
        scoring, heading = step.largest(step.profile.scoring), step.largest(step.profile.heading)
        head = step.plus(with_buffers(before, units.heading()), heading, extra=_made(step, heading.weight_grad))
        return [step.plus(with_buffers(before, units.scoring()), scoring), head, left]
    return [fused_backward(step, with_buffers(before, units.heading())), left]


def _layer(step: Step, units: Units, turn: Turn) -> list[Memory]:
    """A layer's parameters arrive, it is computed again, its gradients are made and reduced."""
    place, part = turn.before, step.profile.layers[turn.kind]
    checkpointing = step.scenario.train.gradient_checkpointing
    lasting = step.profile.all_kept if checkpointing else turn.kept_before
    done = Instant() if checkpointing else part.kept
    memory = between_layers(step, lasting, layer_inputs=place + 1, again=True)
    memory = memory._replace(gradients=_standing(step, units, place))
    stream = step.bytes(step.profile.stream)
    working = units.in_backward(place) + step.recomputed_output
    instant = step.largest(part.backward)
    moments = [
        with_buffers(step.plus(memory, done), units.entering_backward(place) + stream),
        step.plus(memory, instant, extra=working + _made(step, instant.weight_grad)),
        with_buffers(memory, units.leaving_backward(place, stands=accumulates_whole(step)) + stream),
    ]
    if checkpointing:
        again = step.largest(part.recompute)
        moments.append(step.plus(memory, again, extra=working + step.bytes(part.waiting)))
    return moments


def _end(step: Step, units: Units) -> list[Memory]:
    """Gradients of all layers are reduced; the embedding's, or those of the matrix that it is tied to, are not."""
    static = step.static()._replace(logits=step.held_logits, gradients=_standing(step, units, -1))
    beside = step.bytes(step.profile.stream)
    if _after_rollout(step) and not units.tied:
        beside += units.tail.gathered  # fetched ahead, as the last that the rollout used
    return [with_buffers(static, moment + beside) for moment in units.ends(stands=accumulates_whole(step))]
