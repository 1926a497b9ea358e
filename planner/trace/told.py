"""How far a trace has come, for whoever shows it: nobody, unless a teller is set."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from planner.allocator.events import OUTSIDE
from planner.result import Phase
from planner.spec import MOMENTS

Teller = Callable[[float, str], None]
"""Takes the share that is done, 0 to 1, and what is being done."""

_TELLER: ContextVar[Teller | None] = ContextVar("teller", default=None)

SHARES: dict[Phase, tuple[float, float]] = {
    "load": (0.0, 0.0),
    "rollout": (0.0, 0.0),
    "scoring": (0.0, 0.0),
    "forward": (0.0, 0.3),
    "loss": (0.3, 0.35),
    "reference": (0.35, 0.35),
    "backward": (0.35, 0.95),
    "optimizer_step": (0.95, 1.0),
    **dict.fromkeys(MOMENTS, (1.0, 1.0)),
}
"""Where each phase begins and ends within a step's time."""


@contextmanager
def telling(teller: Teller) -> Iterator[None]:
    """Traces inside tell ``teller`` how far they have come."""
    token = _TELLER.set(teller)
    try:
        yield
    finally:
        _TELLER.reset(token)


def tell(phase: Phase, step: int, steps: int, layer: int, layers: int) -> None:
    """Say what is at work, and how much of all steps is done."""
    teller = _TELLER.get()
    if teller is not None:
        where = "" if layer == OUTSIDE else f", layer {layer + 1} of {layers}"
        of = "" if phase in MOMENTS else f" of step {step + 1} of {steps}"
        text = f"{phase.replace('_', ' ')}{of}{where}"
        teller((step + share(phase, layer, layers)) / steps, text)


def share(phase: Phase, layer: int, layers: int) -> float:
    """How much of one step is done; backward passes come from the last layer.

    >>> round(share("forward", 2, 4), 3), round(share("backward", 3, 4), 3), share("optimizer_step", OUTSIDE, 4)
    (0.15, 0.35, 0.95)
    """
    start, end = SHARES[phase]
    if layer == OUTSIDE:
        return start
    done = layer if phase == "forward" else layers - 1 - layer
    return start + (end - start) * done / layers
