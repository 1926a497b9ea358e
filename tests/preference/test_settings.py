"""Settings of preference and reinforcement learning: what a trainer takes when nothing is said, and what is refused."""

from typing import Any

import pytest

from planner.cli.data import job_from
from planner.errors import PlannerError, UnsupportedScenario, UsageError
from planner.planning import plan_for, scenario
from planner.spec import OBJECTIVE_SETTINGS, Job, Method


def train(method: str = "lora", gpus: int = 1, stack: str = "trl", **settings: Any) -> Any:
    return scenario(model="llama-3.2-1b", gpu="h100", method=method, gpus=gpus, stack=stack, **settings).train  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("objective", "method", "reference"),
    [("dpo", "full", "copy"), ("dpo", "lora", "base"), ("dpo", "qlora", "base"), ("grpo", "full", "none")],
)
def test_the_reference_is_the_trainers_own(objective: str, method: str, reference: str) -> None:
    assert train(method, objective=objective).reference == reference


@pytest.mark.parametrize(
    ("stack", "loss"),
    [
        ("trl", "fused"),
        ("trl,trl=1.14", "full"),
        ("trl,trl=0.24", "full"),
        ("axolotl,axolotl=0.18", "full"),
        ("torchtune", "full"),
    ],
)
def test_a_trainer_scores_in_its_own_way(stack: str, loss: str) -> None:
    assert train(objective="dpo", stack=stack).loss == loss


def test_axolotl_has_kernels_of_its_own_for_fine_tuning_alone() -> None:
    assert (train(stack="axolotl").kernels, train(stack="axolotl", objective="dpo").kernels) == ("fused", "eager")


def test_a_second_model_is_divided_as_it_is_planned() -> None:
    assert train("full", gpus=2, stack="llamafactory", objective="dpo").sharding == "zero3"
    assert train("full", gpus=2, stack="axolotl", objective="dpo").sharding == "fsdp"


def test_settings_act_beside_their_objective_only() -> None:
    assert not set(OBJECTIVE_SETTINGS) & set(train().settings)
    assert set(OBJECTIVE_SETTINGS) - set(train(objective="dpo").settings) == {"num_generations", "completion_len"}
    assert set(OBJECTIVE_SETTINGS) <= set(train(objective="grpo").settings)


def test_a_pair_is_two_sequences() -> None:
    assert (train(objective="dpo", micro_batch_size=3).sequences, train(micro_batch_size=3).sequences) == (6, 3)


def test_an_open_accumulation_makes_whole_groups() -> None:
    """8 completions of a prompt: of 1, 4 and 8 at once, on one card and on four."""
    found = [train(objective="grpo", micro_batch_size=size).grad_accumulation for size in (1, 4, 8)]

    assert found == [8, 2, 1]
    assert train(objective="grpo", gpus=4, micro_batch_size=1, sharding="ddp").grad_accumulation == 2


def test_a_completion_leaves_room_for_its_prompt() -> None:
    assert train(objective="grpo").completion_len == 512
    assert train(objective="grpo", seq_len=600).completion_len == 300


def test_a_reference_of_adapters_leaves_full_fine_tuning_out() -> None:
    """It ended the comparison, and checks of LoRA that does not fit: other methods are tried for those."""
    found = plan_for(model="llama-3.2-1b", gpu="h100", objective="dpo", reference="base")

    assert {one.method for one in found.candidates} == {"lora", "qlora"}


REFUSED: list[tuple[dict[str, Any], type[PlannerError], str]] = [
    ({"objective": "kto"}, UsageError, "not one of sft, dpo, grpo"),
    ({"objective": "dpo", "method": "full", "reference": "base"}, UnsupportedScenario, "trains none"),
    ({"objective": "grpo", "reference": "copy"}, UnsupportedScenario, "no second model beside adapters"),
    ({"objective": "dpo", "stack": "hf"}, UnsupportedScenario, "not planned for stack hf"),
    ({"objective": "dpo", "stack": "trl,trl=0.14"}, UnsupportedScenario, "with trl 0.14"),
    ({"objective": "grpo", "stack": "trl,trl=1.14"}, UnsupportedScenario, "with trl 1.14"),
    ({"objective": "grpo", "stack": "axolotl"}, UnsupportedScenario, "not planned for stack axolotl"),
    ({"objective": "dpo", "stack": "axolotl,axolotl=0.16"}, UnsupportedScenario, "not planned for stack axolotl"),
    ({"objective": "dpo", "stack": "trl,trl=1.9", "loss": "chunked"}, UnsupportedScenario, "scores whole logits"),
    ({"objective": "dpo", "stack": "torchtune", "reference": "none"}, UnsupportedScenario, "no --reference none"),
    ({"objective": "dpo", "stack": "torchtune", "reference": "copy"}, UnsupportedScenario, "use --reference base"),
    ({"objective": "dpo", "stack": "torchtune", "method": "full"}, UnsupportedScenario, "use --gpus 2"),
    (
        {"objective": "dpo", "stack": "llamafactory", "method": "full", "gpus": 2, "sharding": "fsdp"},
        UnsupportedScenario,
        "--reference copy under --sharding fsdp",
    ),
    ({"objective": "dpo", "loss": "full"}, UnsupportedScenario, "by its fused head"),
    ({"objective": "dpo", "lora_targets": "q_proj,lm_head"}, UnsupportedScenario, "refuses adapters on the head"),
    ({"objective": "dpo", "moments": "evaluation"}, UnsupportedScenario, "--moments evaluation under"),
    ({"objective": "dpo", "gpus": 2, "tensor_parallel": 2}, UnsupportedScenario, "--tensor-parallel under"),
    ({"objective": "dpo", "gpus": 2, "sharding": "zero3", "offload": "optimizer"}, UnsupportedScenario, "--offload"),
    ({"objective": "grpo", "num_generations": 1}, UsageError, "take 2 or more"),
    ({"objective": "grpo", "seq_len": 256, "completion_len": 256}, UnsupportedScenario, "leaves no prompt"),
    ({"objective": "grpo", "micro_batch_size": 3, "grad_accumulation": 2}, UnsupportedScenario, "not whole groups"),
    ({"objective": "grpo", "gpus": 2, "sharding": "fsdp"}, UnsupportedScenario, "of adapters under --sharding fsdp"),
]


@pytest.mark.parametrize(("settings", "kind", "message"), REFUSED)
def test_what_the_trainer_or_the_plan_cannot_do_is_refused(
    settings: dict[str, Any], kind: type[PlannerError], message: str
) -> None:
    with pytest.raises(kind, match=message) as refusal:
        train(**settings)
    assert "\n" not in str(refusal.value)


# ---------------------------------------------------------------- tasks


@pytest.mark.parametrize(("task", "objective"), [("sft", "sft"), ("dpo", "dpo"), ("rl", "grpo")])
def test_a_task_means_its_objective(task: Any, objective: str) -> None:
    found = plan_for(model="llama-3.2-1b", gpu="h100", method="lora", job=Job(task=task))

    assert found.candidates[0].scenario.train.objective == objective
    assert found.candidates[0].scenario.origins["objective"] == ("default" if task == "sft" else "plan")


def test_the_users_objective_is_held_against_the_task() -> None:
    found = plan_for(model="llama-3.2-1b", gpu="h100", method="lora", job=Job(task="rl"), objective="sft")

    assert found.candidates[0].scenario.train.objective == "sft"


@pytest.mark.parametrize("task", ["orpo", "kto", "ppo", "RLHF"])
def test_other_trainers_are_not_taken_for_dpo_or_grpo(task: str) -> None:
    with pytest.raises(UnsupportedScenario, match=f"--task {task.lower()} is not planned.*--objective"):
        job_from({"task": task}, None)

    assert job_from({"task": task, "objective": "dpo"}, None)[0].task in ("dpo", "rl")


@pytest.mark.parametrize("reference", ["copy", "base"])
def test_a_reference_is_of_pairs_and_samples(reference: str) -> None:
    """Supervised training has none: a copy would otherwise stand in its bytes unsaid."""
    with pytest.raises(UsageError, match="add --objective dpo or grpo"):
        train(reference=reference)
    assert train(reference="none").objective == "sft"


@pytest.mark.parametrize(
    ("stack", "helps"),
    [("llamafactory", "a shorter --seq-len makes fewer"), ("trl,trl=1.0", "TRL 1.15 and newer makes none of them")],
)
def test_logits_of_pairs_are_not_spared_by_another_loss(stack: str, helps: str) -> None:
    """Whose trainer has one way to score them; another trainer is no help to who checks files of this one."""
    found = plan_for(model="llama-3.1-8b", gpu="h100", method="lora", stack=stack, objective="dpo")

    told = [reason.text for reason in found.recommendation.reasons if reason.code == "ACT001"]
    assert len(told) == 1
    assert helps in told[0]
    assert ("--stack" in told[0]) == stack.startswith("trl")


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("stack", ["trl", "axolotl", "llamafactory"])
def test_a_second_model_beside_adapters_is_divided_by_zero3(stack: str, method: Method) -> None:
    """Nothing of it is trained, so it has no partition of gradients: the largest of none ended in a ValueError.

    Packed weights of the second model are there as well, divided in the dtype that holds them.
    """
    copy, base = (
        plan_for(
            model="llama-3.2-1b",
            gpu="h100",
            gpus=2,
            method=method,
            stack=stack,
            objective="dpo",
            sharding="zero3",
            weights_dtype="bf16",
            reference=reference,
        )
        .candidates[0]
        .estimate.phases["load"]
        .weights
        for reference in ("copy", "base")
    )

    assert copy == pytest.approx(2 * base, rel=0.01)
