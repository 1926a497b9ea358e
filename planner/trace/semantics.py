"""How a recorded run behaves as another device would: which kernels run, what they hide, which branches are taken."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from planner.spec import Scenario
from planner.trace.recorder import Hidden


class Semantics(NamedTuple):
    """``attention`` is what transformers is told, ``patched`` holds during the run, ``hidden`` is the recorder's."""

    attention: str
    patched: Callable[[], AbstractContextManager[Any]]
    hidden: Hidden


def cpu_semantics(scenario: Scenario) -> Semantics:
    """The CPU's own kernels: what a measured run on this machine does."""
    return Semantics(
        attention="eager" if scenario.train.attention == "eager" else "sdpa", patched=nullcontext, hidden=lambda *_: ()
    )
