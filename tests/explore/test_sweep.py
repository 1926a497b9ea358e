"""A sweep: every combination once; each row is what the plan of its question says, or the reason why there is none."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

import planner
from planner.catalog import load_model
from planner.errors import UnknownName, UnsupportedScenario, UsageError
from planner.hardware import list_classes, list_gpus
from planner.planning import plan
from planner.recommend.request import Request
from planner.recommend.sweep import Row, grid_of, rows, sweep_for
from planner.spec import METHODS, NO_JOB, Cluster, Job, Scenario
from planner.stacks.resolve import _settle_all, _Settled, resolve
from planner.stacks.rules import load_stack


def test_one_row_for_each_combination_in_order() -> None:
    grid = grid_of(
        models=["1b", "8b"], gpus=["4090", "h100"], counts=[1, 2], methods=["lora"], settings={"seq_len": [512, 4096]}
    )
    found = list(rows(grid))

    assert len(found) == len(grid) == 16
    asked = [(one.asked.model, one.asked.gpu, one.asked.gpus, dict(one.asked.settings)["seq_len"]) for one in found]
    assert asked == list(product(["1b", "8b"], ["4090", "h100"], [1, 2], [512, 4096]))


@pytest.mark.parametrize("job", [NO_JOB, Job(tokens=3_000_000, sequences=4000, epochs=2)])
def test_a_row_is_what_the_plan_says(job: Job) -> None:
    settings: dict[str, Any] = {"micro_batch_size": 2, "seq_len": 1024}
    grid = grid_of(
        models=["8b", "bloom-560m"],
        gpus=["t4", "4090", "24gb", "mi300x"],
        counts=[1, 4],
        settings={name: [value] for name, value in settings.items()},
        headroom_bytes=2**30,
        job=job,
    )
    for one in rows(grid):
        asked = one.asked
        request = Request(
            model=asked.model,
            gpu=asked.gpu,
            gpus=asked.gpus,
            methods=(asked.method,),
            settings=settings,
            headroom_bytes=2**30,
            job=job,
        )
        assert one.candidate is not None
        planned = plan(request).candidates[0]
        assert replace(one.candidate, scenario=planned.scenario) == planned
        assert one.candidate.scenario.train == planned.scenario.train
        assert one.candidate.scenario.origins == planned.scenario.origins


def test_settings_filled_in_once_are_those_of_every_card() -> None:
    model = load_model("8b").model
    variants: tuple[dict[str, Any], ...] = ({}, {"weights_dtype": "fp32"}, {"optimizer": "lion", "lora_rank": 64})
    for settings in (*variants, {"attention": "flash"}):
        for gpu, gpus, method in product((*list_gpus(), *list_classes()), (1, 8), METHODS):
            cluster = Cluster(gpu=gpu, gpus=gpus)
            alone = said(_settle_all, model, cluster, method, settings, load_stack("trl"))
            shared = said(resolve, model, cluster, method, settings)
            if isinstance(shared, Scenario):
                assert shared.cluster == cluster
                shared = _Settled(shared.train, shared.origins, shared.stack)
            assert shared == alone


def said(work: Callable[..., Any], *arguments: Any) -> Any:
    """What it gives, or the words with which it refuses."""
    try:
        return work(*arguments)
    except UnsupportedScenario as error:
        return str(error)


def test_a_value_that_equals_another_is_not_taken_for_it() -> None:
    model, cluster = load_model("8b").model, Cluster(gpu=list_gpus()[-1])
    resolve(model, cluster, "lora", {"micro_batch_size": 1})

    with pytest.raises(UsageError, match="True is not a whole number"):
        resolve(model, cluster, "lora", {"micro_batch_size": True})


def test_a_list_may_change_after_it_was_asked_about() -> None:
    model, cluster, targets = load_model("8b").model, Cluster(gpu=list_gpus()[-1]), ["q_proj"]
    first = resolve(model, cluster, "lora", {"lora_targets": targets})
    targets.append("v_proj")

    assert first.train.lora_targets == ("q_proj",)
    assert resolve(model, cluster, "lora", {"lora_targets": targets}).train.lora_targets == ("q_proj", "v_proj")


def one_row(**changes: Any) -> Row:
    values: dict[str, Any] = {"models": ["8b"], "gpus": ["4090"], "methods": ["lora"], **changes}
    (found,) = rows(grid_of(**values))
    return found


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpus": ["v100-16gb"], "settings": {"attention": ["flash"]}}, "v100-16gb cannot run FlashAttention-2"),
        ({"counts": [2], "settings": {"sharding": ["none"]}}, "--sharding none on 2 GPUs: use"),
        ({"models": ["mamba-2.8b"]}, "not covered"),
        ({"settings": {"lora_targets": ["no_such_module"]}}, "no_such_module"),
    ],
)
def test_what_cannot_be_planned_is_a_row_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    found = one_row(**changes)

    assert found.candidate is None
    assert found.reason is not None
    assert reason in found.reason


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"models": ["no-such-model"]}, UnknownName),
        ({"gpus": ["no-such-card"]}, UnknownName),
        ({"settings": {"seq_len": [0]}}, UsageError),
        ({"settings": {"no_such_setting": [1]}}, UnknownName),
        ({"settings": {"loss": ["full", "no-such-loss"]}}, UsageError),
        ({"methods": ["dora"]}, UsageError),
        ({"stacks": ["no-such-stack"]}, UnknownName),
        ({"counts": [0]}, UsageError),
        ({"counts": []}, UsageError),
        ({"gpus": ["local"]}, UsageError),
    ],
)
def test_a_name_or_value_without_meaning_stops_before_the_first_row(changes: dict[str, Any], error: type) -> None:
    values: dict[str, Any] = {"models": ["8b"], "gpus": ["4090"], **changes}
    with pytest.raises(error):
        grid_of(**values)


def test_all_stands_for_every_model_and_card() -> None:
    grid = grid_of(models=["all"], gpus=["all", "4090"])

    assert len(grid.models) > 200
    assert {gpu.id for gpu in list_gpus()} <= {*grid.gpus}


def test_the_library_sweeps_lists() -> None:
    found = list(sweep_for(model=["1b", "8b"], gpu="4090", method="lora", seq_len=[512, 1024], lora_rank=8))

    assert len(found) == 4
    assert {row.candidate.scenario.train.seq_len for row in found if row.candidate} == {512, 1024}


def test_the_library_looks_at_names_before_the_first_row() -> None:
    with pytest.raises(UnknownName):
        sweep_for(model="8b", gpu="no-such-card")


def test_rows_are_made_as_they_are_asked_for() -> None:
    grid = grid_of(models=["all"], gpus=["all"], counts=[1, 2, 4, 8])

    assert next(rows(grid)).asked.model == grid.models[0]  # and returns at once, not in half a minute
    assert planner.__version__


def test_the_library_sweeps_over_machines_as_a_plan_takes_them() -> None:
    asked: dict[str, Any] = {"model": "8b", "gpu": "4090", "gpus": 16, "method": "full", "network_gbps": 100}
    (row,) = sweep_for(**asked, host_memory="64GiB")
    planned = planner.plan(**asked, host_memory="64GiB")

    assert row.candidate is not None
    assert row.candidate.scenario.cluster == replace(planned.cluster, gpu=row.candidate.scenario.cluster.gpu)
    assert row.candidate.scenario.cluster.host_memory_bytes == 64 * 2**30


@pytest.mark.parametrize(
    "wrong",
    [{"headroom": True}, {"headroom": 1.5}, {"host_memory": 2.5}, {"network_gbps": "fast"}, {"network_gbps": [1, 2]}],
)
def test_amounts_of_machines_are_checked_before_the_first_row(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong)).replace("_", "-")):
        sweep_for(model="8b", gpu="4090", **wrong)
    with pytest.raises(UsageError, match=next(iter(wrong)).replace("_", "-")):
        planner.plan(model="8b", gpu="4090", **wrong)


def test_every_method_of_a_grid_is_looked_at() -> None:
    with pytest.raises(UsageError, match="dora"):
        grid_of(models=["8b"], gpus=["4090"], methods=["lora", "dora"])  # type: ignore[list-item]
