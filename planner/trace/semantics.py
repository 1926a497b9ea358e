"""How a recorded run behaves as another device would: which kernels run, what they hide, which branches are taken."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch

from planner.build.installed import BITSANDBYTES
from planner.build.kernels import wants_liger
from planner.spec import Gpu, Scenario
from planner.trace.cpu import hidden_on_cpu, random_states_counted
from planner.trace.cuda import (
    IMPLEMENTATIONS,
    Card,
    Workspaces,
    as_on_cuda,
    card_of,
    hidden_on,
    managed_states,
    unpadded_masks,
)
from planner.trace.fake import ELSEWHERE
from planner.trace.recorder import Hidden, Kept


class Semantics(NamedTuple):
    """``attention`` is what transformers is told; ``patched`` holds while the job is built and run.

    ``hidden`` and ``kept`` are the recorder's; ``managed`` names the optimizer's states that are not on the device.
    """

    attention: str
    patched: Callable[[], AbstractContextManager[Any]]
    hidden: Hidden
    kept: Kept
    managed: Callable[[Any], list[torch.Tensor]]
    host: str = ELSEWHERE
    """What the host is called: the device itself where the step runs on the CPU."""


def semantics_on(scenario: Scenario) -> Semantics:
    """Those of the scenario's card, or of the processor that stands in for one."""
    return (cpu_semantics if scenario.cluster.gpu.is_cpu else cuda_semantics)(scenario)


def cpu_semantics(scenario: Scenario) -> Semantics:
    """The CPU's own kernels: what a measured run on this machine does."""

    @contextmanager
    def patched() -> Iterator[None]:
        with unpadded_masks(), random_states_counted():
            yield

    attention = "eager" if scenario.train.attention == "eager" else "sdpa"
    return Semantics(attention, patched, hidden_on_cpu, lambda _func, **_: 0, lambda _optimizer: [], host="cpu")


def cuda_semantics(scenario: Scenario) -> Semantics:
    """The kernels of the scenario's card."""
    train, card = scenario.train, card_for(scenario.cluster.gpu)

    def patched() -> AbstractContextManager[None]:
        int8 = train.quantized and train.quant == "int8"
        autocast, liger = train.autocast != "none", wants_liger(scenario)
        return as_on_cuda(
            train.attention,
            card,
            autocast=autocast,
            int8=int8,
            liger=liger,
            bitsandbytes=train.optimizer in BITSANDBYTES,
        )

    return Semantics(IMPLEMENTATIONS[train.attention], patched, hidden_on(card), Workspaces(card).due, managed_states)


def card_for(gpu: Gpu) -> Card:
    """What kernels ask the driver about a card of ours; AMD's, which have no capability, are taken for an A100."""
    return card_of(gpu.compute_capability or (8, 0), gpu.sm_count)
