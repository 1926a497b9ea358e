"""A scenario comes back from JSON as it was, and every estimate of it is the same to the byte."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import planner
from planner.catalog import list_models, load_model
from planner.closed_form import estimate
from planner.errors import UnsupportedScenario
from planner.families import opaque_model
from planner.hardware import load_gpu
from planner.records import scenario_document, scenario_from
from planner.spec import Behaviour, Cluster, Method, Scenario, TrainSpec
from planner.stacks import resolve
from tests.conftest import MODEL, STACK

MODELS = ("smollm2-135m", "llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v2-lite", "gpt2", "gemma-3-4b", "mixtral-8x7b")
STACKS = ("trl", "hf", "plain", "hf,transformers=4.48.1,torch=2.4", "trl,trl=0.19,transformers=4.53.0")
METHODS: tuple[Method, ...] = ("full", "lora", "qlora")


def through_json(scenario: Scenario) -> Scenario:
    return scenario_from(json.loads(json.dumps(scenario_document(scenario), sort_keys=True)))


def same(scenario: Scenario) -> None:
    again = through_json(scenario)

    assert again == scenario
    assert hash(again) == hash(scenario)
    assert again.model.config == scenario.model.config
    assert dict(again.origins) == dict(scenario.origins)
    assert estimate(again) == estimate(scenario)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", MODELS)
def test_methods_and_models(model: str, method: Method) -> None:
    same(planner.scenario(model=model, gpu="4090", method=method, seq_len=512))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stack", STACKS)
def test_stacks_and_versions(stack: str, method: Method) -> None:
    same(planner.scenario(model="llama-3.2-1b", gpu="h100-sxm", method=method, stack=stack, seq_len=512))


@pytest.mark.parametrize("row", list_models(), ids=lambda row: row.id)
def test_every_model_of_the_catalogue(row: Any) -> None:
    model = load_model(row.id).model
    scenario = replace(planner.scenario(model="gpt2", gpu="l4", method="full"), model=model)
    again = through_json(scenario).model

    assert again == model
    assert again.config == model.config
    assert "spec" not in scenario_document(scenario)["model"]


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_targets": "q_proj,v_proj", "modules_to_save": "lm_head", "lora_rank": 64, "lora_dropout": 0.05},
        {"optimizer": "paged_adamw_8bit", "gradient_checkpointing": False, "attention": "eager", "loss": "full"},
        {"weights_dtype": "fp32", "autocast": "none", "attention": "sdpa", "kernels": "fused"},
    ],
    ids=["targets", "optimizer", "fp32"],
)
def test_settings(settings: dict[str, Any]) -> None:
    same(planner.scenario(model="llama-3.2-1b", gpu="4090", method="lora", seq_len=256, **settings))


@pytest.mark.parametrize(
    ("config", "closed"),
    [
        ({"peft_type": "LORA", "r": 8, "lora_alpha": 4, "target_modules": ["q_proj"]}, True),
        ({"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], "use_dora": True}, False),
        ({"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": []}, False),
    ],
    ids=["lora", "dora", "ia3"],
)
def test_adapters_from_a_file(config: dict[str, Any], closed: bool, tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    scenario = planner.scenario(model="llama-3.2-1b", gpu="4090", method="lora", peft_config=str(path))

    assert through_json(scenario) == scenario
    assert not closed or estimate(through_json(scenario)) == estimate(scenario)


def test_cards() -> None:
    """Shards, classes, a card with bridges and prices, and one that no profile describes."""
    same(planner.scenario(model="llama-3.2-1b", gpu="24gb", method="full", gpus=4, nodes=2, seq_len=256))
    local = replace(load_gpu("4090"), id="local", memory_bytes=17_094_475_776, compute_capability=(8, 9), sm_count=66)
    cluster = Cluster(gpu=local, headroom_bytes=12345)
    same(resolve(load_model("gpt2").model, cluster, "lora", {"seq_len": 128}))


def variants() -> Iterator[Scenario]:
    """Scenarios that no name stands for."""
    usual = planner.scenario(model="qwen1.5-moe-a2.7b", gpu="4090", method="lora", seq_len=256)
    yield replace(usual, model=replace(usual.model, layout=usual.model.layout[:3]))
    yield replace(usual, model=replace(usual.model, attends=("eager",), logits_softcap=True))
    yield replace(usual, stack=replace(usual.stack, kbit_upcast="norms", fused_parts=("norm", "loss")))
    yield replace(usual, stack=replace(usual.stack, name="mine"))
    yield replace(usual, stack=replace(usual.stack, versions={"torch": "nightly"}))
    yield replace(usual, model=replace(usual.model, config={}))


@pytest.mark.parametrize(
    "scenario", tuple(variants()), ids=["depth", "model", "behaviour", "stack", "versions", "no config"]
)
def test_what_differs_from_names_is_kept(scenario: Scenario) -> None:
    same(scenario)


def test_a_model_made_by_hand() -> None:
    scenario = Scenario(model=MODEL, train=TrainSpec(method="full"), cluster=Cluster(gpu=load_gpu("l4")), stack=STACK)

    assert through_json(scenario) == scenario


def test_a_model_without_closed_form() -> None:
    config = {"model_type": "mamba", "vocab_size": 1000, "hidden_size": 64, "num_hidden_layers": 2}
    usual = planner.scenario(model="gpt2", gpu="l4", method="full")
    scenario = replace(usual, model=opaque_model(config, name="mine"))

    assert through_json(scenario) == scenario


# ---------------------------------------------------------------- other versions


def document() -> dict[str, Any]:
    found = scenario_document(planner.scenario(model="gpt2", gpu="l4", method="lora"))
    return dict(json.loads(json.dumps(found)))


def test_a_field_that_a_later_version_added_has_its_default() -> None:
    """What an older version could not say holds as where nobody says it."""
    old = document()
    del old["train"]["peft_config"], old["cluster"]["gpu"]["tdp_w"], old["origins"]

    found = scenario_from(old)

    assert (found.train.peft_config, found.cluster.gpu.tdp_w) == ("", None)


def test_a_mended_stack_reaches_old_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules are read anew: what was wrong about a trainer when the run was made is not wrong for ever."""
    import planner.records.scenario as ours  # noqa: PLC0415

    old = document()
    mended = replace(scenario_from(old).stack, holds_logits=True)

    def rules(_name: str, _versions: object) -> Behaviour:
        return mended

    monkeypatch.setattr(ours, "_behaviour", rules)

    assert scenario_from(old).stack.holds_logits


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("schema", 2, "written by another version: update"),
        ("train.moment", "evaluation", "TrainSpec.moment is unknown"),
        ("train.sharding", "zero4", "sharding 'zero4' is not one of none, ddp"),
        ("train.seq_len", "2048", "TrainSpec.seq_len '2048' is not a whole number"),
        ("cluster.gpu.colour", "green", "Cluster.gpu.colour is unknown"),
        ("model.differs", {"spirit": 1}, "ModelSpec.spirit is unknown"),
        ("model.config", {"model_type": 3}, "no model can be built from the configuration"),
        ("model.differs", 3, "not one that this version knows"),
        ("stack.name", "megatron", "no rules for stack 'megatron'"),
        ("stack.differs", {"kbit_upcast": "some"}, "kbit_upcast 'some' is not one of none, norms, experts, all"),
        ("stack.versions", {"torch": 3}, r"Behaviour.versions.torch 3 is not text"),
        ("train", None, "TrainSpec None is not an object"),
        ("model", [], "not one that this version knows"),
    ],
)
def test_what_this_version_does_not_know_is_refused(place: str, value: object, says: str) -> None:
    changed: Any = document()
    part = changed
    *path, last = place.split(".")
    for name in path:
        part = part[name]
    part[last] = value

    with pytest.raises(UnsupportedScenario, match=says) as caught:
        scenario_from(changed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model", "train", "cluster", "stack"])
def test_a_missing_part_is_refused(name: str) -> None:
    changed = document()
    del changed[name]

    with pytest.raises(UnsupportedScenario, match=f"the scenario has no {name}"):
        scenario_from(changed)


def test_a_missing_field_without_default_is_refused() -> None:
    changed = document()
    del changed["cluster"]["gpu"]["memory_bytes"]

    with pytest.raises(UnsupportedScenario, match=r"Cluster.gpu.memory_bytes is missing"):
        scenario_from(changed)
