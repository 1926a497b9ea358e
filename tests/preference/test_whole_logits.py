"""The closed form of pairs that are scored from whole logits against traces of each trainer's step, phase by phase."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import pytest

from planner.closed_form.estimator import estimate
from planner.planning import scenario
from planner.result import Estimate
from planner.spec import Scenario
from planner.stacks import load_stack

pytest.importorskip("torch")
for library in ("transformers", "accelerate", "peft"):
    pytest.importorskip(library)
traced = pytest.importorskip("planner.trace.estimator").estimate

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 0.02


class Case(NamedTuple):
    """One trainer's step of a model of 1.2B parameters."""

    stack: str
    method: str
    settings: Mapping[str, object] = {}

    @property
    def title(self) -> str:
        """A short id for pytest."""
        return "-".join([self.stack, self.method, *(f"{value}" for value in self.settings.values())])


CASES = [
    Case("trl,trl=0.18", "lora"),
    Case("trl,trl=0.24", "lora"),
    Case("trl,trl=0.24", "full", {"reference": "none"}),
    Case("trl,trl=0.24", "lora", {"gpus": 4, "sharding": "fsdp"}),
    Case("trl,trl=1.5", "lora"),
    Case("trl,trl=1.5", "lora", {"autocast": "none", "weights_dtype": "bf16"}),
    Case("trl,trl=1.9", "full"),
    Case("trl,trl=1.9", "lora", {"gradient_checkpointing": False}),
    Case("trl,trl=1.9", "full", {"gpus": 4, "sharding": "fsdp"}),
    Case("llamafactory", "lora"),
    Case("llamafactory", "full"),
    Case("torchtune", "full", {"gpus": 2, "sharding": "fsdp"}),
    Case("torchtune", "lora", {"gpus": 4, "sharding": "fsdp"}),
]


def of(one: Case) -> Scenario:
    """The scenario with what the stack does to pairs, and all else as with the releases that are installed.

    A trace runs a few layers, and has no hidden states of the others in its outputs: without those of older TRL.
    """
    pairs = load_stack(one.stack).behaviour
    found = scenario(
        model="llama-3.2-1b",
        gpu="h100",
        method=one.method,  # type: ignore[arg-type]
        stack=one.stack,
        objective="dpo",
        micro_batch_size=2,
        seq_len=512,
        attention="sdpa",
        kernels="eager",
        **one.settings,  # type: ignore[arg-type]
    )
    names = ("objectives", "pairs", "adapted_pairs", "references", "narrow_reference", "logits_upcast")
    newest = load_stack("trl").behaviour
    stack = replace(newest, **{name: getattr(pairs, name) for name in names})
    train = replace(found.train, offload=(), optimizer="adamw_fused")
    return replace(found, stack=stack, train=train)


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> object:
    from tests.preference.whole_logits import preference_loss  # noqa: PLC0415  (torch)

    monkeypatch.setattr("planner.build.job.preference_loss", preference_loss)
    return traced


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.title)
def test_every_phase_is_that_of_the_trace(one: Case, trace: object) -> None:
    ours = estimate(of(one))
    theirs: Estimate = trace(of(one))  # type: ignore[operator]

    assert tuple(ours.phases) == tuple(theirs.phases)
    for name, memory in theirs.phases.items():
        if name != "load":  # on the way to the device a trace has other originals
            assert ours.phases[name].total == pytest.approx(memory.total, rel=TOLERANCE), name
