"""Own runs in place of published constants, by how near they are."""

from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from planner.calibration.own import Query, Run, Runs
from planner.catalog import load_model
from planner.closed_form import estimate
from planner.hardware import load_gpu
from planner.result import StepTime
from planner.spec import Cluster, Scenario
from planner.stacks import resolve
from planner.throughput import Load, step_time
from planner.throughput.own import DEVICE, NEIGHBOURS, REPEATS, OwnTimes


def scenario(model: str = "llama-3.2-1b", **settings: Any) -> Scenario:
    facts = {"micro_batch_size": 4, **settings}
    return resolve(load_model(model).model, Cluster(gpu=load_gpu("rtx4090")), "lora", facts, "trl")


def published(one: Scenario) -> StepTime:
    found = step_time(one, estimate(one))
    assert found is not None
    return found


def run(one: Scenario, ratio: float | None, name: str = "run", **changes: Any) -> Run:
    """A run that took ``ratio`` times what is published of it."""
    seconds = None if ratio is None else ratio * published(one).seconds
    nothing: Any = MappingProxyType({})
    facts = {"id": name, "scenario": one, "layers": None, "measured": nothing, "predicted": nothing}
    return Run(**{**facts, "seconds": seconds, **changes})


def own(*runs: Run) -> OwnTimes:
    def find(query: Query) -> tuple[Run, ...]:
        return tuple(found for found in runs if answers(found, query))

    return OwnTimes(Runs(find), estimate, step_time)


def answers(found: Run, query: Query) -> bool:
    one = found.scenario
    named = query.model in ("", one.model.name) and query.method in ("", one.train.method)
    return named and query.stack == one.stack.name


def corrected(one: Scenario, *runs: Run, load: Load | None = None) -> StepTime:
    step = step_time(one, estimate(one), load)
    assert step is not None
    return own(*runs).corrected(step, one, load)


def test_nothing_measured_changes_nothing() -> None:
    assert corrected(scenario()) == published(scenario())


def test_runs_of_the_scenario_replace_the_time() -> None:
    found = corrected(scenario(), run(scenario(), 1.3))

    assert found.seconds == pytest.approx(1.3 * published(scenario()).seconds)
    assert (found.low, found.high) == pytest.approx((found.seconds / (1 + REPEATS), found.seconds * (1 + REPEATS)))
    assert (found.basis.kind, found.basis.n, found.basis.sources) == ("scenario", 1, ("run",))
    assert found.tokens_per_second == pytest.approx(4 * 2048 / found.seconds)


def test_runs_that_disagree_widen_the_bounds() -> None:
    found = corrected(scenario(), *(run(scenario(), ratio, str(ratio)) for ratio in (1.0, 1.2, 1.5)))

    assert found.seconds == pytest.approx(1.2 * published(scenario()).seconds)
    assert found.high / found.seconds == pytest.approx(1.5 / 1.2)


def test_a_neighbour_corrects_with_more_left_open() -> None:
    near = scenario(seq_len=4096)
    found = corrected(scenario(), run(near, 1.3))
    half = published(scenario()).high / published(scenario()).seconds - 1

    assert found.seconds == pytest.approx(1.3 * published(scenario()).seconds)
    assert found.high / found.seconds - 1 == pytest.approx(max(NEIGHBOURS, half / 2))
    assert found.basis.kind == "neighbours"


def test_another_model_speaks_for_the_device() -> None:
    found = corrected(scenario(), *(run(scenario("llama-3.2-3b"), 1.3, str(n)) for n in range(9)))

    assert found.basis.kind == "device"
    assert found.basis.n == 9
    assert found.high / found.seconds - 1 == pytest.approx(DEVICE)


def test_another_model_that_is_limited_otherwise_says_nothing() -> None:
    launched = scenario("llama-3.2-3b", seq_len=32, micro_batch_size=1)

    assert corrected(scenario(), run(launched, 1.3)) == published(scenario())


def test_the_nearest_runs_count_alone() -> None:
    runs = (run(scenario(), 1.1, "same"), run(scenario(seq_len=4096), 2.0, "near"), run(scenario("llama-3.2-3b"), 3.0))

    assert corrected(scenario(), *runs).seconds == pytest.approx(1.1 * published(scenario()).seconds)


@pytest.mark.parametrize("changes", [{"seconds": None}, {"layers": 2}, {"scenario": replace(scenario())}])
def test_runs_without_seconds_or_of_some_layers_say_nothing(changes: dict[str, Any]) -> None:
    if "scenario" in changes:
        changes["seconds"] = None
    assert corrected(scenario(), run(scenario(), 1.3, **changes)) == published(scenario())


def test_a_run_of_other_lengths_is_no_run_of_the_scenario() -> None:
    found = corrected(scenario(), run(scenario(), 1.3, lengths=(512, 2048)))

    assert found.basis.kind == "neighbours"


def test_a_much_smaller_load_is_no_longer_the_very_scenario() -> None:
    found = corrected(scenario(), run(scenario(), 1.3), load=Load(1000, 250))

    assert found.basis.kind == "neighbours"
    assert found.high / found.seconds - 1 == pytest.approx(NEIGHBOURS)


def test_the_store_is_asked_once_for_many_times() -> None:
    asked: list[Query] = []

    def find(query: Query) -> Iterable[Run]:
        asked.append(query)
        return (run(scenario(), 1.3),) if query.model else ()

    times = OwnTimes(Runs(lambda query: tuple(find(query))), estimate, step_time)
    for _ in range(50):
        times.corrected(published(scenario()), scenario())

    assert len(asked) <= 3
