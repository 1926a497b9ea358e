"""TRL's DPOTrainer and GRPOTrainer on the CPU against ours: states to the byte, a step's allocations by its trace.

The trace of a processor runs the same kernels; the closed form counts a GPU's, whose head scores completions alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from planner.closed_form.estimator import estimate
from planner.measure.step import without_kernels_hub
from planner.result import Estimate
from planner.spec import Scenario
from tests.preference import trainers
from tests.preference.trainers import COMPLETION, GROUP

without_kernels_hub()
traced = pytest.importorskip("planner.trace.estimator").estimate

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 0.005


class Case(NamedTuple):
    """One job: what the trainer is told, and what the scenario says."""

    objective: str
    method: str
    arguments: tuple[tuple[str, object], ...] = ()
    settings: tuple[tuple[str, object], ...] = ()

    @property
    def title(self) -> str:
        """A short id for pytest."""
        return "-".join([self.objective, self.method, *(f"{name}={value}" for name, value in self.settings)])


CASES = [
    Case("dpo", "full"),
    Case("dpo", "lora"),
    Case("dpo", "lora", (("precompute_ref_log_probs", True),), (("reference", "none"),)),
    Case("dpo", "full", (("gradient_checkpointing", False),), (("gradient_checkpointing", False),)),
    Case("dpo", "lora", (("gradient_checkpointing", False),), (("gradient_checkpointing", False),)),
    Case("dpo", "qlora", (("model_init_kwargs", trainers.BF16),), (("weights_dtype", "bf16"),)),
    Case("grpo", "full"),
    Case("grpo", "full", (("beta", 0.04),), (("reference", "copy"),)),
    Case("grpo", "lora", (("beta", 0.04),), (("reference", "base"),)),
    Case(
        "grpo",
        "lora",
        (("gradient_checkpointing", False), ("num_generations", 4), ("per_device_train_batch_size", 4)),
        (("gradient_checkpointing", False), ("num_generations", 4), ("micro_batch_size", 4)),
    ),
]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trainers.folder_of(tmp_path_factory.mktemp("tiny"))


RUNS: dict[str, trainers.Measured] = {}


def ran(case: Case, folder: Path) -> trainers.Measured:
    if case.title not in RUNS:
        make = trainers.dpo_trainer if case.objective == "dpo" else trainers.grpo_trainer
        RUNS[case.title] = trainers.measured(make(folder, case.method, **dict(case.arguments)))
    return RUNS[case.title]


def scenario_of(case: Case) -> Scenario:
    sampled: Mapping[str, Any] = (
        {} if case.objective == "dpo" else {"num_generations": GROUP, "completion_len": COMPLETION}
    )
    return trainers.scenario_of(case.method, **{"objective": case.objective, **sampled, **dict(case.settings)})


def above(found: Estimate) -> int:
    """The most that a step holds besides weights, adapters and optimizer states."""
    standing = found.phases["load"]
    stands = standing.weights + standing.adapters + found.phases["optimizer_step"].optimizer
    step = {name: memory for name, memory in found.phases.items() if name not in ("load", "optimizer_step")}
    return max(memory.total for memory in step.values()) - stands


@every_case
def test_states_are_those_of_the_real_trainer_to_the_byte(case: Case, folder: Path) -> None:
    real, ours = ran(case, folder), estimate(scenario_of(case)).phases["optimizer_step"]

    assert ours.weights + ours.adapters == real.weights + real.reference
    assert ours.gradients == real.gradients
    assert ours.optimizer == real.optimizer


@every_case
def test_a_traced_step_allocates_what_the_real_one_does(case: Case, folder: Path) -> None:
    assert above(traced(scenario_of(case))) == pytest.approx(ran(case, folder).above, rel=TOLERANCE)


def test_a_second_model_is_there_where_the_plan_says_so(folder: Path) -> None:
    """A copy in full fine-tuning, none beside adapters, and none where log probabilities were computed beforehand."""
    for case in CASES:
        copied = scenario_of(case).train.reference == "copy"
        assert (ran(case, folder).reference > 0) == copied, case.title
