"""One closed form for all cards of a kind: equal to the plain one on every profile, and blind to all else of a card."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from planner.catalog import load_model
from planner.closed_form import estimate as closed_form
from planner.closed_form.shared import kind_of_card, shared
from planner.errors import PlannerError, UnsupportedScenario
from planner.estimators import estimator_for
from planner.hardware import list_classes, list_gpus
from planner.recommend.shared import shared_estimator
from planner.result import Estimate
from planner.spec import METHODS, Cluster, Gpu, ModelSpec, Scenario
from planner.stacks import resolve

MODELS = ("qwen2.5-0.5b", "llama-3.1-8b", "qwen3-30b-a3b", "bloom-560m")
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"optimizer": "paged_adamw_8bit", "micro_batch_size": 4, "grad_accumulation": 2, "loss": "full"},
    {"attention": "eager", "gradient_checkpointing": False, "moments": "all"},
)
CARDS = (*list_gpus(), *list_classes())
PROCESSOR = replace(CARDS[0], id="cpu", architecture="cpu", compute_capability=None, supports_flash=False)


def grid(name: str) -> Iterator[Scenario]:
    """Every profile, method, number of cards and set of settings that resolves."""
    model = load_model(name).model
    for gpu, method, gpus, settings in product((*CARDS, PROCESSOR), METHODS, (1, 2, 8), SETTINGS):
        try:
            yield resolve(model, Cluster(gpu=gpu, gpus=gpus), method, settings)
        except UnsupportedScenario:
            continue


def answer(estimator: Any, scenario: Scenario) -> Estimate | str:
    try:
        found: Estimate = estimator(scenario)
    except PlannerError as error:
        return str(error)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_equal_to_the_plain_estimator_on_every_profile(name: str) -> None:
    bare, whole, plain = shared(), shared_estimator(), estimator_for("closed-form")
    compared = 0
    for scenario in grid(name):
        assert answer(bare, scenario) == answer(closed_form, scenario)
        assert answer(whole, scenario) == answer(plain, scenario)
        compared += 1

    assert compared > 500


class Watched:
    """A card that notes which of its fields are read."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> object:
        self.read.add(name)
        return getattr(self._gpu, name)


@pytest.mark.parametrize("name", MODELS)
def test_a_closed_form_reads_nothing_else_of_a_card(name: str) -> None:
    for scenario in grid(name):
        watched: Any = Watched(scenario.cluster.gpu)
        answer(closed_form, replace(scenario, cluster=replace(scenario.cluster, gpu=watched)))

        assert watched.read <= {"supports_flash", "is_cpu", "compute_capability", "unified_memory", "context_bytes"}


def test_a_question_about_another_card_of_the_kind_is_not_worked_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Scenario] = []

    def counted(scenario: Scenario) -> Estimate:
        asked.append(scenario)
        return closed_form(scenario)

    monkeypatch.setattr("planner.closed_form.shared.estimate", counted)
    estimator, model = shared(), load_model("llama-3.1-8b").model
    for gpu in CARDS:
        estimator(resolve(model, Cluster(gpu=gpu), "lora"))

    kinds = {kind_of_card(gpu) for gpu in CARDS}
    settings = {scenario.train for scenario in asked}
    assert len(asked) < len(CARDS) / 4
    assert len(asked) <= len(kinds) * len(settings)


def test_a_refusal_is_remembered_and_its_traceback_does_not_grow() -> None:
    estimator, model = shared(), replace(load_model("llama-3.1-8b").model, blocks=(), model_type="unheard-of")
    scenario = resolve(model, Cluster(gpu=CARDS[-1]), "lora")
    depths = []
    for _ in range(3):
        with pytest.raises(UnsupportedScenario, match="unheard-of") as caught:
            estimator(scenario)
        depths.append(len(caught.traceback))

    assert len(set(depths)) == 1


def test_a_model_is_told_from_another_of_its_name() -> None:
    model: ModelSpec = load_model("llama-3.1-8b").model
    deeper = replace(model, layout=model.layout * 2)
    estimator = shared()

    first = estimator(resolve(model, Cluster(gpu=CARDS[-1]), "lora"))

    assert estimator(resolve(deeper, Cluster(gpu=CARDS[-1]), "lora")).peak.required_bytes > first.peak.required_bytes
