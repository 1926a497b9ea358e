"""How a recorded run behaves as another device would: which kernels run, what they hide, which branches are taken."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

from planner.spec import Gpu, Scenario
from planner.trace.cuda import IMPLEMENTATIONS, Card, card_of, cuda_attention, triton_logprob, unpadded_masks
from planner.trace.recorder import Hidden


class Semantics(NamedTuple):
    """``attention`` is what transformers is told, ``patched`` holds during the run, ``hidden`` is the recorder's."""

    attention: str
    patched: Callable[[], AbstractContextManager[Any]]
    hidden: Hidden


def cpu_semantics(scenario: Scenario) -> Semantics:
    """The CPU's own kernels: what a measured run on this machine does."""
    return Semantics(
        attention="eager" if scenario.train.attention == "eager" else "sdpa",
        patched=unpadded_masks,
        hidden=lambda *_: (),
    )


def cuda_semantics(scenario: Scenario) -> Semantics:
    """The kernels of the scenario's card."""
    train, card = scenario.train, card_for(scenario.cluster.gpu)

    @contextmanager
    def patched() -> Iterator[None]:
        with ExitStack() as stack:
            for context in (unpadded_masks(), cuda_attention(train.attention, card), triton_logprob()):
                stack.enter_context(context)
            yield

    return Semantics(attention=IMPLEMENTATIONS[train.attention], patched=patched, hidden=lambda *_: ())


def card_for(gpu: Gpu) -> Card:
    """What kernels ask the driver about a card of ours; AMD's are taken for the newest that torch treats alike."""
    return card_of(gpu.compute_capability or (9, 0), gpu.sm_count)
