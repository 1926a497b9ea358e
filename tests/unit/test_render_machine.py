"""JSON: the contract of docs/json-schema.md, held against the types that describe it."""

import json
from dataclasses import fields, replace
from math import nan
from typing import Any

import pytest
from pydantic import TypeAdapter

from planner.render.document import PlanDocument
from planner.render.machine import plan_document, to_json
from planner.result import OWNERS, PHASES, Plan
from planner.spec import ACTS, TrainSpec


@pytest.fixture(params=["nothing_fits", "something_fits"])
def plan(request: pytest.FixtureRequest) -> Plan:
    found: Plan = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def document(plan: Plan) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(to_json(plan_document(plan)))
    return loaded


def test_output_keeps_to_its_types_and_has_no_undescribed_key(document: dict[str, Any]) -> None:
    """A TypedDict drops keys that it does not know, so equality means that all are described."""
    checked = TypeAdapter(PlanDocument).validate_json(json.dumps(document), strict=True)

    assert checked == document


def test_top_level_keys(document: dict[str, Any]) -> None:
    assert {"schema", "scenario", "gpu", "candidates", "recommendation"} <= set(document)
    assert document["schema"] == 1
    assert set(document["gpu"]) == {"id", "name", "count", "nodes", "total_bytes", "usable_bytes"}


def test_every_setting_says_who_chose_it(document: dict[str, Any]) -> None:
    for setting in document["scenario"].values():
        assert set(setting) == {"value", "from"}
        assert setting["from"] in ("user", "stack", "model", "default")


def test_settings_that_differ_stand_with_their_candidates(nothing_fits: Plan) -> None:
    """Here LoRA keeps fp32 adapters and QLoRA bf16 ones."""
    document = plan_document(nothing_fits)

    values = {"full": "fp32", "lora": "fp32", "qlora": "bf16"}
    assert document["scenario"]["adapter_dtype"]["value"] == values
    assert [one["settings"]["adapter_dtype"] for one in document["candidates"]] == ["fp32", "fp32", "bf16"]
    assert document["scenario"]["lora_rank"] == {"value": 16, "from": "default"}


def test_an_appended_candidate_does_not_change_what_was_asked(something_fits: Plan) -> None:
    assert plan_document(something_fits)["scenario"]["seq_len"]["value"] == 2048


def test_methods_that_the_user_named_are_said_to_be_named(nothing_fits: Plan) -> None:
    open_, named = nothing_fits, replace(nothing_fits, named=("qlora",))

    assert plan_document(open_)["scenario"]["method"] == {"value": ["full", "lora", "qlora"], "from": "default"}
    assert plan_document(named)["scenario"]["method"] == {"value": ["qlora"], "from": "user"}


def test_candidates_hold_every_setting(document: dict[str, Any]) -> None:
    names = {field.name for field in fields(TrainSpec)} - {"method", *ACTS}

    for candidate in document["candidates"]:
        assert set(candidate["settings"]) == names
        assert candidate["method"] in ("full", "lora", "qlora")


def test_owners_are_complete_and_sum_to_allocated(document: dict[str, Any]) -> None:
    for candidate in document["candidates"]:
        assert [phase["name"] for phase in candidate["phases"]] == list(PHASES)
        for phase in candidate["phases"]:
            assert list(phase["owners"]) == list(OWNERS)
            assert sum(phase["owners"].values()) == phase["allocated_bytes"]


def test_every_byte_count_is_an_int(document: dict[str, Any]) -> None:
    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                if key.endswith("_bytes"):
                    assert type(value["value"] if isinstance(value, dict) else value) is int, key
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(document)


def test_ways_say_what_differs_and_how_to_run_it(nothing_fits: Plan) -> None:
    advice = plan_document(nothing_fits)["recommendation"]

    assert advice["candidate"] is None
    assert [way["settings"] for way in advice["changes"]] == [{"seq_len": 512}]
    assert [(way["gpu"], way["gpus"], way["sharding"]) for way in advice["rent"]] == [
        ("4090", 4, "fsdp"),
        ("h100-sxm", 1, "none"),
    ]
    assert all(way["command"].startswith("plan ") for way in (*advice["changes"], *advice["rent"]))


def test_a_number_that_is_not_finite_never_gets_out(nothing_fits: Plan) -> None:
    first = nothing_fits.recommendation.reasons[0]
    broken = replace(nothing_fits.recommendation, reasons=(replace(first, number=nan),))

    with pytest.raises(ValueError, match="JSON compliant"):
        to_json(plan_document(replace(nothing_fits, recommendation=broken)))
