"""Phase ``optimizer_step``: all gradients, all states, and what the update itself needs."""

from planner.closed_form.step import Step
from planner.result import Memory


def optimizer_phase(step: Step) -> Memory:
    """States, gradients and the update's temporaries; a caller that keeps the outputs still has the logits."""
    static = step.static(gradients=step.shards.gradients, held=True)
    held = step.held_logits
    return static._replace(logits=held, temporaries=static.temporaries + step.shards.update)
