"""What a trace of many ranks costs: no more than twice the time and the memory of one of a few.

ZeRO-1 and 2 are left out: they cut gradients wherever a rank's part ends, 511 times in a step, which are seconds that a
deep model does not notice and this one does.
"""

import resource
import time
from dataclasses import replace
from importlib.util import find_spec
from typing import NamedTuple

import pytest

from planner.spec.training import Sharding
from tests.trace.sharding_cases import Case, scenario
from tests.trace.test_sharded import run

for needed in ("torch", "transformers", "accelerate", "peft"):
    pytest.importorskip(needed)

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

BY_DEEPSPEED = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")


TRIES = 3
"""A processor that is shared takes twice as long at times."""


class Cost(NamedTuple):
    """Events, seconds of the processor, and KiB that the process has had at most so far."""

    events: int
    seconds: float
    memory: int


def cost(sharding: Sharding, ranks: int) -> Cost:
    """Of a model whose smallest tensors have an entry for each of 512 ranks: DeepSpeed fills up where they have not."""
    base = scenario(Case("wide", "full", mixed=True), ranks)
    question = replace(base, train=replace(base.train, sharding=sharding))
    before = time.process_time()
    events = len(run(question).trace.events)
    seconds = time.process_time() - before
    return Cost(events, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


@pytest.mark.parametrize("sharding", ["fsdp", pytest.param("zero3", marks=BY_DEEPSPEED)])
def test_512_ranks_cost_no_more_than_twice_what_8_cost(sharding: Sharding) -> None:
    cost(sharding, 2)  # the first of a process loads code
    for _ in range(TRIES):
        few, many = cost(sharding, 8), cost(sharding, 512)
        if many.seconds <= 2 * few.seconds:
            break
    assert many.events <= 1.1 * few.events
    assert many.seconds <= 2 * few.seconds
    assert many.memory <= 2 * few.memory
