"""The decision table: what the plan answers in each situation, by which rule, and where it would change its mind."""

import tomllib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from planner.estimators import remember
from planner.planning import plan
from planner.recommend.batches import batch
from planner.recommend.candidates import candidates
from planner.recommend.choice import choose
from planner.recommend.informed import informed
from planner.recommend.names import understand
from planner.recommend.order import preference
from planner.recommend.request import Ask, Request
from planner.recommend.rules import find
from planner.recommend.shared import shared_estimator
from planner.recommend.thresholds import LENGTH_STEP
from planner.result import Candidate, Plan, Threshold
from planner.spec import Job

TABLE = Path(__file__).parent / "decisions.toml"
SITUATIONS: dict[str, dict[str, Any]] = {
    one["name"]: one for one in tomllib.loads(TABLE.read_text(encoding="utf-8"))["situation"]
}
HELD = ("micro_batch_size", "grad_accumulation")
ESTIMATE = remember(shared_estimator())


def request(one: dict[str, Any]) -> Request:
    return Request(
        model=one["model"],
        gpu=one["gpu"],
        gpus=one.get("gpus", 1),
        nodes=one.get("nodes"),
        methods=tuple(one.get("methods", ())),
        settings=one.get("settings", {}),
        stack=one.get("stack", "trl"),
        job=Job(**one.get("job", {})),
    )


@cache
def plan_of(name: str) -> Plan:
    return plan(request(SITUATIONS[name]))


def chosen(made: Plan) -> Candidate | None:
    index = made.recommendation.candidate
    return None if index is None else made.candidates[index]


@pytest.mark.parametrize("name", SITUATIONS)
def test_method_and_verdict(name: str) -> None:
    one, found = SITUATIONS[name], chosen(plan_of(name))

    if one["method"] == "none":
        assert found is None
        assert plan_of(name).recommendation.rent[0].candidate.method == one["rent"]
        return
    assert found is not None
    assert found.method in (("lora", "qlora") if one["method"] == "adapters" else (one["method"],))
    assert found.verdict == one.get("verdict", found.verdict)


@pytest.mark.parametrize("name", SITUATIONS)
def test_binding_rule_speaks(name: str) -> None:
    codes = {reason.code for reason in plan_of(name).recommendation.reasons}

    assert SITUATIONS[name]["code"] in codes
    assert SITUATIONS[name].get("silent") not in codes


@pytest.mark.parametrize("name", [name for name, one in SITUATIONS.items() if "expect" in one])
def test_key_settings(name: str) -> None:
    found = chosen(plan_of(name))
    assert found is not None

    settings = {key: getattr(found.scenario.train, key) for key in SITUATIONS[name]["expect"]}

    assert {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()} == SITUATIONS[
        name
    ]["expect"]


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_step_learns_from_as_many_sequences_as_recipes_do(name: str) -> None:
    """Whatever their division into micro-batches, accumulation and cards; more cards than sequences add to them."""
    one, made = SITUATIONS[name], plan_of(name)
    found = chosen(made)
    if found is None or set(HELD) <= set(one.get("settings", {})):
        return
    train, world, usual = (
        found.scenario.train,
        made.cluster.world_size,
        batch(found.scenario.train.method, made.job.task),
    )

    assert usual.low <= train.micro_batch_size * train.grad_accumulation * world <= max(usual.high, world)


@pytest.mark.parametrize("name", SITUATIONS)
def test_argument_is_one_line_with_a_rule_that_exists(name: str) -> None:
    one = SITUATIONS[name]

    assert find(one["code"]).code == one["code"]
    assert one["because"].endswith(".")
    assert "\n" not in one["because"]


def test_table_is_large_and_names_nothing_twice() -> None:
    names = [one["name"] for one in tomllib.loads(TABLE.read_text(encoding="utf-8"))["situation"]]

    assert len(names) == len(set(names)) >= 40


# ---------------------------------------------------------------- thresholds, on both sides


def decided(question: Ask) -> str | None:
    """The method that is chosen with the offloading of the question; nothing else of the plan is made."""
    asked = informed(question)
    found, _ = candidates(asked, ESTIMATE)
    one = choose(found, preference(asked, found), asked, ESTIMATE)
    if one is None or (one.candidate.scenario.train.offload and "offload" not in question.request.settings):
        return None
    return one.candidate.method


def as_chosen(question: Ask, found: Candidate | None) -> Ask:
    """The question with the method and the offloading of the choice, where it offloads: thresholds are of that."""
    if found is None or not found.scenario.train.offload:
        return question
    train = found.scenario.train
    away = {"sharding": train.sharding, "offload": ",".join(train.offload)}
    return question.planning(away).using(train.method, {})


def at(question: Ask, mark: Threshold, *, beyond: bool) -> Ask:
    """The same question on one side of a threshold: ``beyond`` is the upper one."""
    if mark.quantity == "memory_bytes":
        cluster, usable = question.cluster, mark.value - (not beyond)
        gpu = replace(cluster.gpu, memory_bytes=usable + cluster.gpu.system_bytes + cluster.gpu.taken_bytes)
        return replace(question, cluster=replace(cluster, gpu=gpu))
    if mark.quantity == "tokens":
        job = replace(question.job, tokens=mark.value + beyond, supervised_tokens=None)
        return replace(question, request=replace(question.request, job=job))
    settings = {**question.request.settings, "seq_len": mark.value + LENGTH_STEP * beyond}
    return replace(question, request=replace(question.request, settings=settings))


@pytest.mark.parametrize("name", SITUATIONS)
def test_choice_flips_where_the_plan_says(name: str) -> None:
    made = plan_of(name)
    found = chosen(made)
    question = as_chosen(understand(request(SITUATIONS[name]))[0], found)
    now = found.method if found else None

    for mark in made.recommendation.thresholds:
        sides = [decided(at(question, mark, beyond=beyond)) for beyond in (False, True)]

        assert sides == ([now, mark.method] if mark.side == "above" else [mark.method, now]), mark.text
