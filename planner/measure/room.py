"""How much memory this machine has left, so that a model too large for it is refused before the machine swaps."""

from planner.closed_form import estimate
from planner.errors import UnsupportedScenario
from planner.local.processor import available_bytes
from planner.spec import Scenario
from planner.units import MIB, format_bytes

PROCESS_BYTES = 900 * MIB
"""A process that has loaded torch, transformers, peft and trl, before any model: 0.6 to 0.8 GiB are resident."""


def check_weights(scenario: Scenario) -> None:
    """The same from the weights alone: a trace of every layer of a model that is far too large takes its time.

    Where there is no closed form, the trace says it later.
    """
    try:
        weights = estimate(scenario).phases["load"].total
    except UnsupportedScenario:
        return
    check_room(weights, scenario.model.num_hidden_layers, scenario.cluster.world_size)


def check_room(peak_bytes: int, layers: int, ranks: int = 1) -> None:
    """Raise ``UnsupportedScenario`` when a step of ``layers`` layers that peaks so high on every rank does not fit."""
    free = available_bytes()
    needed = ranks * (peak_bytes + PROCESS_BYTES)
    if free is not None and needed > free:
        hint = "use --layers N to measure the first N layers only" if layers > 1 else "use fewer or shorter sequences"
        raise UnsupportedScenario(
            f"this step needs about {format_bytes(needed)} of memory on this machine, which has "
            f"{format_bytes(free)} free: {hint}"
        )
