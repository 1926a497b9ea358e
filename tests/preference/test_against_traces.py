"""The closed form of DPO and GRPO against traces of TRL's own code, phase by phase, on a GPU's kernels."""

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import pytest

from planner.closed_form.estimator import estimate
from planner.planning import scenario
from planner.result import Estimate
from planner.spec import Method, Scenario

pytest.importorskip("torch")
for library in ("transformers", "accelerate", "peft", "trl", "bitsandbytes"):
    pytest.importorskip(library)
traced = pytest.importorskip("planner.trace.estimator").estimate

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 0.02

LENGTHS: Mapping[str, object] = {"seq_len": 512, "completion_len": 128, "micro_batch_size": 4}


class Case(NamedTuple):
    """One scenario of a model of 1.2B parameters."""

    method: Method
    settings: tuple[tuple[str, object], ...]

    @property
    def title(self) -> str:
        """A short id for pytest."""
        return "-".join([self.method, *(f"{value}" for _, value in self.settings)])


def case(method: Method, objective: str, **settings: object) -> Case:
    return Case(method, (("objective", objective), *settings.items()))


CASES = [
    case("full", "dpo"),
    case("lora", "dpo"),
    case("qlora", "dpo"),
    case("lora", "dpo", reference="copy"),
    case("qlora", "dpo", reference="copy", grad_accumulation=2),
    case("full", "dpo", reference="none", weights_dtype="fp32"),
    case("lora", "dpo", gradient_checkpointing=False, lora_dropout=0.1),
    case("full", "dpo", gpus=4, sharding="ddp"),
    case("lora", "dpo", gpus=4, sharding="fsdp"),
    case("full", "dpo", gpus=4, sharding="fsdp"),
    case("full", "grpo"),
    case("full", "grpo", reference="copy", weights_dtype="fp32", micro_batch_size=8),
    case("lora", "grpo", reference="base"),
    case("lora", "grpo", gradient_checkpointing=False),
    case("qlora", "grpo", reference="base", completion_len=384, grad_accumulation=8),
    case("full", "grpo", gpus=4, sharding="fsdp"),
    case("lora", "grpo", gpus=2, sharding="ddp"),
]

every_case = pytest.mark.parametrize("one", CASES, ids=lambda one: one.title)


@cache
def scenario_of(one: Case) -> Scenario:
    settings = {**LENGTHS, **dict(one.settings)}
    return scenario(model="llama-3.2-1b", gpu="h100", method=one.method, **settings)  # type: ignore[arg-type]


@cache
def trace_of(one: Case) -> Estimate:
    found: Estimate = traced(scenario_of(one))
    return found


@every_case
def test_every_phase_is_that_of_the_trace(one: Case) -> None:
    ours, theirs = estimate(scenario_of(one)), trace_of(one)

    assert tuple(ours.phases) == tuple(theirs.phases)
    for name, memory in theirs.phases.items():
        if name != "load":  # on the way to the device a trace has other originals
            assert ours.phases[name].total == pytest.approx(memory.total, rel=TOLERANCE), name


@every_case
def test_the_peak_is_the_same_phase_or_as_high(one: Case) -> None:
    ours, theirs = estimate(scenario_of(one)), trace_of(one)

    assert theirs.phases[ours.peak.phase].total == pytest.approx(theirs.peak.allocated_bytes, rel=TOLERANCE)
    assert ours.peak.allocated_bytes == pytest.approx(theirs.peak.allocated_bytes, rel=TOLERANCE)
