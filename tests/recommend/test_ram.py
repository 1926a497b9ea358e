"""RAM as a limit: what loading takes where cards do not hold the whole model, and what is said where it is short."""

import json
from typing import Any

import pytest

import planner
from planner.cost import PROCESS_BYTES, host_bytes
from planner.hardware import load_gpu
from planner.recommend.rules import find
from planner.recommend.verdict import judge, lacks_ram
from planner.render.machine import plan_document, to_json
from planner.render.plan_text import breakdown
from planner.result import Host
from planner.spec import Cluster
from planner.units import GIB
from tests.recommend.fakes import ask, card, case, flat
from tests.recommend.sharding_samples import hosting

SMALL, LARGE = "4090", "h100"
"""One card that does not hold 70B in 4 bits, and one that does."""


def estimate_of(gpu: str, stack: str = "trl", **settings: Any) -> tuple[planner.Scenario, planner.Estimate]:
    scenario = planner.scenario(model="70b", gpu=gpu, gpus=4, method="qlora", stack=stack, **settings)
    return scenario, planner.estimate(scenario)


def test_every_rank_quantises_in_ram_where_its_card_is_too_small() -> None:
    """Source: transformers 5.23 quantizer_bnb_4bit.py, update_device_map; the way out is a device map to the CPU."""
    (small, on_small), (large, on_large) = estimate_of(SMALL), estimate_of(LARGE)

    assert on_small.host.whole == on_large.host.whole > 30 * GIB
    assert on_small.host.required_on(small.cluster) == 4 * on_small.host.whole
    assert on_large.host.required_on(large.cluster) == on_large.host.load < on_large.host.whole
    assert host_bytes(small, on_small) == 4 * (on_small.host.whole + PROCESS_BYTES)


@pytest.mark.parametrize(
    ("stack", "settings"),
    [
        ("trl", {"sharding": "ddp"}),
        ("hf,transformers=4.48.1", {"sharding": "fsdp"}),
    ],
)
def test_undivided_models_and_older_versions_load_as_they_did(stack: str, settings: dict[str, str]) -> None:
    assert estimate_of(LARGE, stack, **settings)[1].host.whole == 0


def test_the_limit_the_row_and_the_document_count_it() -> None:
    asked: dict[str, Any] = {"model": "70b", "gpu": SMALL, "gpus": 4, "method": "qlora"}
    plan = planner.plan(**asked)
    one = plan.candidates[0]
    needed = one.estimate.host.required_on(one.scenario.cluster)
    tight, enough = (Cluster(gpu=load_gpu(SMALL), gpus=4, host_memory_bytes=ram) for ram in (needed - 1, needed))

    assert (lacks_ram(one.estimate, tight), lacks_ram(one.estimate, enough)) == (True, False)
    assert judge(one.estimate, tight) == "does_not_fit" != judge(one.estimate, enough)
    shown = json.loads(to_json(plan_document(plan)))["candidates"][0]["host"]
    assert shown["required_bytes"] == shown["load_bytes"] == needed
    rows = {cells[0].text: cells[1].text for cells in breakdown(plan).rows}
    assert float(rows["RAM of a machine"]) == pytest.approx(needed / GIB, abs=0.05)
    short = planner.plan(**asked, host_memory=f"{needed // GIB - 1}GiB")
    assert short.candidates[0].verdict == "does_not_fit"


def test_nothing_helps_says_what_is_short() -> None:
    limited = ask(gpu=card(24), gpus=2, host_memory_bytes=64 * GIB)
    rule = find("FIT004")
    of_ram = rule.check(case(limited, estimate=hosting(65), chosen=False, ways=()))
    of_memory = rule.check(case(limited, estimate=flat(900), chosen=False, ways=()))

    assert of_ram is not None
    assert of_memory is not None
    assert of_ram.text.endswith("needs 65.00 GiB of RAM in each machine, and 64.00 GiB may be taken")
    assert of_ram.number == 65 * GIB
    assert of_memory.text.endswith("needs 900.00 GiB on a card of 24.00 GiB")


def test_steady_states_count_where_they_are_more() -> None:
    cluster = Cluster(gpu=load_gpu(LARGE), gpus=8)

    assert Host(optimizer=5, load=3).required_on(cluster) == 5
    assert Host(optimizer=5, load=7, whole=9).required_on(cluster) == 7
