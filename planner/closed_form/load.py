"""Phase ``load``: the model and its adapters reach the device."""

from planner.closed_form.step import Step
from planner.result import Memory


def load_phase(step: Step) -> Memory:
    """Weights, adapters and a second model; while quantising, the 16-bit original of the largest matrix beside them."""
    inventory = step.profile.inventory
    original = 2 * inventory.largest_matrix
    return Memory(weights=step.shards.weights + step.reference, adapters=step.shards.adapters, temporaries=original)
