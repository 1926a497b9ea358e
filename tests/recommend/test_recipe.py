"""Recipes: the published tables, every change of a value on both sides of its threshold, and how it is shown."""

from dataclasses import replace
from typing import Any, get_args

import pytest

import planner
from planner import cost
from planner.catalog import load_model
from planner.recommend.batches import global_batch, largest_batch
from planner.recommend.rates import SHORT_RUN, TABLE, learning_rate, model_aware_rate
from planner.recommend.recipe import Recipe, alpha_for, planned_batch, recipe, stabilised
from planner.render.recipe import NAMES, document, sheet
from planner.spec import METHODS, Cluster, Job, Method, Scenario, Task, TrainSpec
from planner.stacks import load_stack
from tests.recommend.fakes import card, llama

TASKS: tuple[Task, ...] = get_args(Task)
EIGHT = load_model("llama-3.1-8b").model
SEVENTY = load_model("llama-3.1-70b").model
ONE = Cluster(gpu=card())


def rate(model: Any = EIGHT, method: Method = "lora", steps: int | None = None, **job: Any) -> float:
    found = learning_rate(model, method, Job(**job), steps).value
    assert isinstance(found, float)
    return found


def made(method: Method = "lora", job: Job | None = None, model: Any = None, **train: Any) -> Recipe:
    return recipe(planned(TrainSpec(method=method, **train), model or EIGHT), job or Job())


def planned(train: TrainSpec, model: Any = EIGHT, cluster: Cluster = ONE) -> Scenario:
    return Scenario(model=model, train=train, cluster=cluster, stack=load_stack("trl").behaviour)


# ---------------------------------------------------------------- rates


@pytest.mark.parametrize(
    ("task", "full", "lora"),
    [("sft", 2e-5, 2e-4), ("dpo", 5e-7, 5e-6), ("rl", 1e-6, 1e-5)],  # TRL docs, peft_integration.md
)
def test_rates_are_those_of_trl(task: Task, full: float, lora: float) -> None:
    assert rate(method="full", task=task) == full
    assert rate(method="lora", task=task) == rate(method="qlora", task=task) == lora


@pytest.mark.parametrize(
    ("name", "published"),
    [("llama-3-8b", 2.9e-4), ("llama-3.1-70b", 1.7e-4), ("qwen3-8b", 4.7e-4)],  # tinker-cookbook's get_lr
)
def test_second_opinion_is_tinkers(name: str, published: float) -> None:
    found = model_aware_rate(load_model(name).model, "lora", "sft")

    assert found is not None
    assert found.value == published


def test_no_second_opinion_outside_what_was_calibrated() -> None:
    assert model_aware_rate(load_model("mistral-7b-v0.3").model, "lora", "sft") is None
    assert model_aware_rate(EIGHT, "lora", "rl") is None


def test_large_models_take_half() -> None:
    assert rate(SEVENTY, "full") == 1e-5
    assert rate(load_model("llama-2-13b").model, "full") == 1e-5
    assert rate(EIGHT, "full") == 2e-5
    assert rate(SEVENTY, "qlora") == rate(load_model("llama-30b").model, "qlora") == 1e-4
    assert rate(load_model("llama-2-13b").model, "qlora") == 2e-4
    assert rate(SEVENTY, "lora") == 2e-4
    assert rate(SEVENTY, "full", task="dpo") == 5e-7


def test_short_runs_take_more_and_old_skills_less() -> None:
    assert rate(steps=SHORT_RUN - 1) == 3e-4
    assert rate(steps=SHORT_RUN) == rate(steps=None) == 2e-4
    assert rate(method="full", steps=1) == 2e-5
    assert rate(keep_skills=True) == 1e-4
    assert rate(method="full", keep_skills=True) == 1e-5
    assert rate(task="rl", keep_skills=True) == 1e-5


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_every_value_lies_in_its_range(method: Method, task: Task) -> None:
    for name, advice in made(method, Job(task=task)).items():
        assert advice.source, name
        if advice.low is not None and advice.high is not None:
            assert isinstance(advice.value, int | float)
            assert advice.low <= advice.value <= advice.high, name


def test_every_task_has_a_rate() -> None:
    assert set(TABLE) == set(TASKS)


# ---------------------------------------------------------------- batches and steps


@pytest.mark.parametrize("task", TASKS)
def test_adapters_take_smaller_batches(task: Task) -> None:
    assert global_batch("lora", task) == global_batch("qlora", task) <= global_batch("full", task)
    assert largest_batch("lora", task) == 32 <= largest_batch("full", task)
    for method in METHODS:
        assert global_batch(method, task) <= largest_batch(method, task)


def test_steps_are_sequences_over_those_of_a_step() -> None:
    train = TrainSpec(method="lora", micro_batch_size=2, grad_accumulation=4, seq_len=1000)

    one, two = planned(train), planned(train, cluster=replace(ONE, gpus=2))

    assert cost.steps_of(one, Job(sequences=1600, epochs=3)) == 600
    assert cost.steps_of(two, Job(sequences=1600, epochs=3)) == 300
    assert cost.steps_of(one, Job(tokens=80_000)) == 10
    assert cost.steps_of(one, Job(tokens=80_000, sequences=1600, packing=True)) == 10
    assert cost.steps_of(one, Job(sequences=3)) == 1
    assert cost.steps_of(one, Job()) == 0


def test_the_rank_is_that_of_the_plan_where_experts_stand_apart() -> None:
    """Under transformers 4 each expert has adapters of its own: a unit of rank holds more, or less, than when fused."""
    job = Job(tokens=500_000_000)
    plan = planner.plan(model="mixtral-8x7b", gpu="h200", gpus=2, method="lora", stack="trl,transformers=4.57", job=job)
    index = plan.recommendation.candidate
    assert index is not None
    chosen = plan.candidates[index].scenario

    advice = recipe(chosen, job).rank

    assert advice is not None
    assert advice.value == chosen.train.lora_rank


# ---------------------------------------------------------------- adapters


def test_alpha_is_continuous_where_the_scale_changes() -> None:
    """At rank 64 alpha / sqrt(r) is what twice the rank over the rank is below."""
    assert not stabilised(32)
    assert stabilised(64)
    assert alpha_for(64) / 64**0.5 == alpha_for(32) / 32 == 2.0


def test_rank_follows_the_data() -> None:
    for tokens, rank in ((None, 16), (83_886_080, 16), (83_886_081, 32), (2_000_000_000, 256)):
        advice = made(job=Job(tokens=tokens)).rank

        assert advice is not None
        assert advice.value == rank


def test_supervised_tokens_count_where_they_are_known() -> None:
    advice = made(job=Job(tokens=200_000_000, supervised_tokens=60_000_000)).rank

    assert advice is not None
    assert advice.value == 16


def test_alpha_goes_with_the_rank_that_is_planned() -> None:
    advice = made(lora_rank=128)

    assert advice.alpha is not None
    assert advice.rslora is not None
    assert (advice.alpha.value, advice.rslora.value) == (16.0, True)


def test_full_fine_tuning_has_no_adapters() -> None:
    full = made("full")

    assert [full.rank, full.alpha, full.rslora, full.dropout, full.targets, full.modules_to_save] == [None] * 6


def test_new_vocabulary_trains_the_tables() -> None:
    new = Job(new_vocabulary=True)
    untied, tied = made(job=new).modules_to_save, made(job=new, model=llama(tie_word_embeddings=True)).modules_to_save

    assert made().modules_to_save is None
    assert untied is not None
    assert tied is not None
    assert untied.value == ("embed_tokens", "lm_head")
    assert tied.value == ("embed_tokens",)


# ---------------------------------------------------------------- shown


def test_table_has_a_row_per_setting() -> None:
    full = made("full")
    shown = sheet(full)

    assert [cells[0].text for cells in shown.rows] == [NAMES[name] for name, _ in full.items()]
    assert [cell.text for cell in shown.rows[0][:3]] == ["learning rate", "2e-05", "1e-05–4e-05"]


def test_every_field_has_a_name() -> None:
    assert list(NAMES) == [*Recipe._fields]


def test_document_carries_range_and_source() -> None:
    found = document(made())

    assert found["global_batch"]["value"] == 16
    assert (found["global_batch"]["low"], found["global_batch"]["high"]) == (8, 32)
    assert found["targets"]["value"] == ["all-linear"]
    assert all(part["source"] for part in found.values())


@pytest.mark.parametrize(
    ("gpus", "accumulation", "batch"), [(1, 1, 16), (1, 24, 24), (32, 1, 32), (3, 5, 15), (64, 1, 16)]
)
def test_the_batch_is_that_of_the_planned_step_as_far_as_recipes_go(gpus: int, accumulation: int, batch: int) -> None:
    """Thirty-two cards take no fewer than 32 sequences: to start with 16 was advice beside a command that cannot."""
    scenario = planner.scenario(model="8b", gpu="h100", gpus=gpus, method="lora", grad_accumulation=accumulation)

    assert planned_batch(scenario) == gpus * accumulation
    assert recipe(scenario, Job()).global_batch.value == batch
