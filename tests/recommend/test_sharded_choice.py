"""Kinds of sharding, machines and offloading among what the plan chooses from."""

from typing import Any

import pytest

import planner
from planner.estimators import Estimator
from planner.recommend.candidates import candidates
from planner.recommend.choice import recommend
from planner.recommend.request import Ask
from planner.recommend.tuning import OFFLOADS, offloaded, tuned
from planner.result import Candidate, Recommendation
from planner.spec import Method, Scenario
from tests.recommend.fakes import ask, card, needs

FABRIC: dict[str, Any] = {"nvlink_bytes_per_s": 300e9}


def offloading(**gib: float) -> Estimator:
    """30 GiB a card; what is told where states are offloaded, by engine and how many kinds."""

    def required(one: Scenario) -> float:
        return gib.get(f"{one.train.sharding}{len(one.train.offload)}", 30) if one.train.offload else 30

    return needs(required)


def answered(asked: Ask, estimate: Estimator) -> tuple[Candidate | None, Recommendation]:
    found, recommendation = recommend(candidates(asked, estimate)[0], asked, estimate)
    return None if recommendation.candidate is None else found[recommendation.candidate], recommendation


@pytest.mark.parametrize(
    ("gib", "sharding", "offload"),
    [
        ({"zero31": 20, "fsdp2": 10, "zero32": 10}, "zero3", ("optimizer",)),
        ({"fsdp2": 20, "zero32": 10}, "fsdp", ("optimizer", "parameters")),
        ({"zero32": 20}, "zero3", ("optimizer", "parameters")),
    ],
)
def test_the_mildest_offloading_that_runs_is_taken_where_nothing_else_does(
    gib: dict[str, float], sharding: str, offload: tuple[str, ...]
) -> None:
    asked = ask(gpu=card(24), gpus=2, methods=("full",))

    taken, recommendation = answered(asked, offloading(**gib))

    assert taken is not None
    assert (taken.scenario.train.sharding, taken.scenario.train.offload) == (sharding, offload)
    assert taken.scenario.origins["offload"] == "plan"
    first = recommendation.changes[0]
    assert first.settings["offload"] == ",".join(offload)
    assert f"--sharding {sharding} --offload {','.join(offload)}" in first.command


def test_nothing_is_offloaded_where_something_runs_without() -> None:
    taken, _ = answered(ask(gpu=card(40), gpus=2, methods=("full",)), offloading(zero31=1, fsdp2=1, zero32=1))

    assert taken is not None
    assert taken.scenario.train.offload == ()


@pytest.mark.parametrize(
    ("gpus", "settings"),
    [(1, {}), (2, {"offload": "activations"}), (2, {"sharding": "ddp"}), (2, {"sharding": "zero2"})],
)
def test_what_the_user_holds_is_not_offloaded_around(gpus: int, settings: dict[str, Any]) -> None:
    asked = ask(gpu=card(24), gpus=gpus, settings=settings)

    assert offloaded(asked, ("full", "qlora"), offloading(zero31=1, fsdp2=1, zero32=1)) is None


def test_an_engine_that_is_held_offloads_as_it_can() -> None:
    asked = ask(gpu=card(24), gpus=2, settings={"sharding": "fsdp"})
    found = offloaded(asked, ("full",), offloading(zero31=1, fsdp2=1, zero32=1))

    assert found is not None
    assert found.settings["offload"] == OFFLOADS[1]["offload"]


def test_of_methods_that_run_offloaded_the_fastest_is_taken() -> None:
    """Every weight takes longer to update than adapters do."""
    asked = ask(gpu=card(24), gpus=2)
    methods: tuple[Method, ...] = ("full", "lora")
    found = offloaded(asked, methods, offloading(zero31=20))

    assert found is not None
    assert found.candidate.method == "lora"


@pytest.mark.parametrize(("network", "kind"), [(1.25e9, "hsdp"), (2400e9, "fsdp")])
def test_among_machines_the_kind_of_shards_follows_from_the_network(network: float, kind: str) -> None:
    """Whole copies do not fit; shards of 8 and of 16 cards do. 16 sequences a step leave no room for accumulation."""
    asked = ask(gpu=card(24, network_bytes_per_s=network, **FABRIC), gpus=16)
    estimate = needs(lambda one: {"ddp": 40, "hsdp": 20, "fsdp": 18}[one.train.sharding])
    found = tuned(asked, "lora", estimate)

    assert found is not None
    assert found.candidate.scenario.train.sharding == kind


def test_one_machine_has_no_hybrid_shards() -> None:
    asked = ask(gpu=card(24, **FABRIC), gpus=8)
    seen: set[str] = set()

    def required(one: Scenario) -> float:
        seen.add(one.train.sharding)
        return 10

    tuned(asked, "lora", needs(required))

    assert seen == {"fsdp", "ddp"}


def test_what_would_change_an_offloaded_choice_is_asked_of_it_alone() -> None:
    """Another method, offloaded too, would be slower: it is no threshold."""
    taken, recommendation = answered(ask(gpu=card(24), gpus=2), offloading(fsdp2=20))
    said = {reason.code: reason.text for reason in recommendation.reasons}

    assert taken is not None
    assert {one.method for one in recommendation.thresholds} <= {taken.method, None}
    assert "--offload optimizer,parameters" in said["FIT006"]
    assert "SHD011" in said


def test_cards_over_pcie_that_share_each_layer_are_no_one_card() -> None:
    """SHD009 compares with a single card, which has no tensor to share: asking for its time ended in a KeyError."""
    answer = planner.plan(model="qwen3-32b", gpu="5090", gpus=2, tensor_parallel=2)

    assert answer.recommendation.candidate is None
    assert "SHD009" not in {reason.code for reason in answer.recommendation.reasons}


def test_the_same_method_on_other_settings_is_told_apart() -> None:
    """Under one name ``full`` did not fit by FIT001 and was tight by FIT002, and SHD005 told of two savings of it."""
    answer = planner.plan(model="70b", gpu="h100", gpus=8, method="full")
    texts = {reason.text.partition(":")[0] for reason in answer.recommendation.reasons if reason.code[:3] == "FIT"}
    savings = [reason.text for reason in answer.recommendation.reasons if reason.code == "SHD005"]

    assert {"full as asked does not fit", "full is tight"} <= texts
    assert ["of full as asked by" in text for text in savings] == [True, False]


@pytest.mark.parametrize(
    ("stack", "settings", "codes"),
    [
        ("torchtune", {"sharding": "fsdp"}, set()),
        ("llamafactory", {"objective": "dpo", "sharding": "zero3"}, set()),
        ("llamafactory", {"sharding": "zero3"}, {"SHD006", "SHD007"}),
    ],
)
def test_no_engine_is_proposed_that_the_stack_does_not_run(
    stack: str, settings: dict[str, Any], codes: set[str]
) -> None:
    """torchtune has FSDP alone; a second model is divided by ZeRO-3. SHD007 said --sharding hsdp, which was refused."""
    answer = planner.plan(
        model="8b",
        gpu="a100-80gb",
        gpus=16,
        network_gbps=10,
        method="full",
        stack=stack,
        grad_accumulation=1,
        **settings,
    )

    assert {reason.code for reason in answer.recommendation.reasons} & {"SHD006", "SHD007"} == codes
