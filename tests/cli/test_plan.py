"""The default action: exit codes, the JSON contract on real plans, exact text."""

import json
import shlex
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter

from planner.render.document import PlanDocument
from planner.result import OWNERS

Run = Callable[..., Any]
Golden = Callable[[str, str], None]

SMALL = ("--model", "8b", "--gpu", "4090")
LARGE = ("--model", "70b", "--gpu", "4090")


def document(run: Run, *arguments: str) -> dict[str, Any]:
    answer = run(*arguments, "--format", "json")
    assert answer.err == ""
    loaded: dict[str, Any] = json.loads(answer.out)
    return loaded


def test_exit_code_tells_whether_anything_fits(run: Run) -> None:
    assert run(*SMALL).code == 0
    assert run(*LARGE).code == 4


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize(("name", "arguments"), [("8b_4090", SMALL), ("70b_4090", LARGE)])
def test_text(run: Run, golden: Golden, name: str, arguments: tuple[str, ...], columns: int) -> None:
    answer = run(*arguments, columns=columns)

    assert answer.err == ""
    assert max(map(len, answer.out.splitlines())) <= columns
    golden(f"plan_{name}_{columns}.txt", answer.out)


def test_markdown(run: Run, golden: Golden) -> None:
    golden("plan_8b_4090.md", run(*SMALL, "--format", "markdown").out)


@pytest.mark.parametrize(
    "arguments",
    [
        SMALL,
        LARGE,
        (*SMALL, "--method", "lora", "--method", "qlora", "--seq-len", "4096"),
        (*LARGE, "--gpus", "4", "--sharding", "fsdp"),
        (*SMALL, "--headroom", "2GiB", "--stack", "hf,transformers=4.48.1"),
        ("--model", "8b", "--gpu", "24gb", "--no-gradient-checkpointing", "--lora-targets", "q_proj,v_proj"),
    ],
    ids=" ".join,
)
def test_json_keeps_the_contract(run: Run, arguments: tuple[str, ...]) -> None:
    found = document(run, *arguments)

    checked: Any = TypeAdapter(PlanDocument).validate_json(json.dumps(found), strict=True)
    assert checked == found
    for candidate in found["candidates"]:
        for phase in candidate["phases"]:
            assert list(phase["owners"]) == list(OWNERS)
            assert sum(phase["owners"].values()) == phase["allocated_bytes"]
        peak = candidate["peak"]
        assert peak["allocated_bytes"] == max(phase["allocated_bytes"] for phase in candidate["phases"])
        assert peak["low_bytes"] <= peak["required_bytes"] <= peak["high_bytes"]
        usable = found["gpu"]["usable_bytes"]
        fits = peak["high_bytes"] <= usable
        tight = peak["required_bytes"] <= usable
        assert candidate["verdict"] == ("fits" if fits else "tight" if tight else "does_not_fit")


def test_what_the_user_sets_is_held_and_marked(run: Run) -> None:
    found = document(run, *SMALL, "--seq-len", "1024", "--no-double-quant", "--gpus", "2", "--stack", "hf")

    scenario = found["scenario"]
    assert scenario["seq_len"] == {"value": 1024, "from": "user"}
    assert scenario["double_quant"] == {"value": False, "from": "user"}
    assert scenario["gpus"] == {"value": 2, "from": "user"}
    assert scenario["stack"]["value"] == "hf"
    assert scenario["lora_rank"] == {"value": 16, "from": "default"}
    assert found["gpu"]["count"] == 2


def test_nothing_fits_still_names_ways_out(run: Run) -> None:
    advice = document(run, *LARGE)["recommendation"]

    assert advice["candidate"] is None
    assert advice["rent"]
    assert all(reason["code"] and reason["text"] for reason in advice["reasons"])


def test_every_proposed_command_runs_and_says_the_same(run: Run) -> None:
    """A way is recomputed, not quoted."""
    advice = document(run, *LARGE)["recommendation"]

    for way in (*advice["changes"], *advice["rent"]):
        again = document(run, *shlex.split(way["command"])[1:])
        peaks = [one["peak"] for one in again["candidates"] if one["method"] == way["candidate"]["method"]]
        assert peaks[0] == way["candidate"]["peak"]


def test_only_named_methods_are_planned(run: Run) -> None:
    found = document(run, *SMALL, "--method", "lora")

    assert {one["method"] for one in found["candidates"]} == {"lora"}


def test_headroom_lowers_what_is_usable(run: Run) -> None:
    gpu = document(run, *SMALL, "--headroom", "1GiB")["gpu"]

    assert gpu["total_bytes"] - gpu["usable_bytes"] == 2**30
