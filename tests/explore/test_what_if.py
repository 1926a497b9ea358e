"""What if: every change is one change, its numbers are those of its own plan, and the best come first."""

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from planner.hardware import load_gpu
from planner.recommend.rules import RULES
from planner.recommend.single import next_larger, settings_of
from planner.recommend.whatif import QUALITY, Effect, WhatIf, money, what_if_for
from planner.render.lines import Screen, plain
from planner.render.whatif import what_if_lines, what_if_markdown
from planner.spec import Cluster, Job, TrainSpec
from tests.cli.conftest import Run
from tests.explore.fakes import step_of
from tests.recommend.fakes import ask, card

CASES: tuple[dict[str, Any], ...] = (
    {"model": "8b", "gpu": "4090", "method": "lora", "grad_accumulation": 4},
    {"model": "70b", "gpu": "4090", "gpus": 2, "method": "qlora"},
    {"model": "1b", "gpu": "t4", "method": "full", "micro_batch_size": 4, "seq_len": 512},
)
FOLLOW = {"lora_alpha", "quant_storage", "attention"}
"""Open settings that follow from another."""
IMPLIED = {*FOLLOW, "adapter_dtype", "sharding", "weights_dtype", "autocast"}
"""Open settings that follow from the method or the hardware too."""


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case["model"])
def found(request: pytest.FixtureRequest) -> WhatIf:
    return what_if_for(**request.param)


# ---------------------------------------------------------------- one change each


def test_every_change_is_one_change(found: WhatIf) -> None:
    before = asdict(found.start.scenario.train)
    for one in found.effects:
        after = asdict(one.way.candidate.scenario.train)
        changed = {name for name in before if before[name] != after[name]}
        said = set(one.way.settings)
        assert said <= changed
        assert changed - said <= (IMPLIED if one.moves or "method" in said else FOLLOW)
        assert one.moves == ((one.way.gpu, one.way.gpus) != (found.start.scenario.cluster.gpu.id, _count(found)))
        assert changed or one.moves


def _count(found: WhatIf) -> int:
    return found.start.scenario.cluster.world_size


def test_no_change_comes_twice(found: WhatIf) -> None:
    seen = [(tuple(one.way.settings.items()), one.way.gpu, one.way.gpus, one.way.sharding) for one in found.effects]

    assert len(seen) == len(set(seen))


def test_all_axes_are_there() -> None:
    lora = what_if_for(model="8b", gpu="4090", gpus=2, method="qlora", micro_batch_size=2, grad_accumulation=2)
    tried = {name for one in (*lora.effects, *lora.refused) for name in _settings(one)}

    assert tried == {
        "gradient_checkpointing",
        "loss",
        "kernels",
        "optimizer",
        "attention",
        "micro_batch_size",
        "grad_accumulation",
        "seq_len",
        "lora_rank",
        "lora_targets",
        "adapter_dtype",
        "quant",
        "double_quant",
        "quant_storage",
        "weights_dtype",
        "autocast",
        "sharding",
        "method",
    }
    assert {(one.way.gpus, one.way.gpu) for one in lora.effects if one.moves} >= {(3, "rtx4090")}


def _settings(one: Any) -> tuple[str, ...]:
    return tuple(one.way.settings if isinstance(one, Effect) else one.settings)


def test_the_sequences_of_a_step_are_kept_where_they_can_be() -> None:
    alone = Cluster(gpu=load_gpu("4090"))
    shapes = list(settings_of(TrainSpec(method="lora", micro_batch_size=4, grad_accumulation=2), alone))

    assert {"micro_batch_size": 8, "grad_accumulation": 1} in shapes
    assert {"micro_batch_size": 2, "grad_accumulation": 4} in shapes
    assert {"micro_batch_size": 8} in shapes
    assert {"micro_batch_size": 2} in shapes


@pytest.mark.parametrize(("gpus", "nodes", "hybrid"), [(8, 2, True), (8, 1, False), (1, 8, False)])
def test_hybrid_shards_are_tried_where_several_machines_hold_several_cards(gpus: int, nodes: int, hybrid: bool) -> None:
    cluster = Cluster(gpu=load_gpu("h100"), gpus=gpus, nodes=nodes)
    tried = list(settings_of(TrainSpec(method="full", sharding="fsdp"), cluster))

    assert {"sharding": "zero3"} in tried
    assert ({"sharding": "hsdp"} in tried) is hybrid


def test_the_next_larger_card_has_more_memory_and_no_card_lies_between() -> None:
    from planner.hardware import list_gpus, load_gpu  # noqa: PLC0415

    asked = replace(ask(), cluster=replace(ask().cluster, gpu=load_gpu("4090")))
    larger = next_larger(asked)

    assert larger is not None
    assert larger.memory_bytes > 1.10 * load_gpu("4090").memory_bytes
    between = [
        gpu for gpu in list_gpus() if 1.10 * load_gpu("4090").memory_bytes < gpu.memory_bytes < larger.memory_bytes
    ]
    assert all(gpu.memory_bytes // 2**30 == larger.memory_bytes // 2**30 for gpu in between)


def test_the_largest_card_has_no_larger_one() -> None:
    asked = replace(ask(), cluster=replace(ask().cluster, gpu=card(10_000)))

    assert next_larger(asked) is None


# ---------------------------------------------------------------- its own plan says the same


def test_every_change_is_what_its_command_plans(found: WhatIf, run: Run) -> None:
    for one in found.effects:
        words = shlex.split(one.way.command)
        planned = json.loads(run(*words[1:], "--format", "json").out)
        (document,) = planned["candidates"][:1]
        peak, step = one.way.candidate.estimate.peak, one.way.candidate.step
        assert document["peak"]["required_bytes"] == peak.required_bytes, one.way.command
        assert document["verdict"] == one.way.candidate.verdict
        assert (document["step"] or {}).get("seconds") == (None if step is None else step.seconds)


def test_differences_are_the_changes_less_what_is_at_hand(found: WhatIf) -> None:
    start = found.start
    for one in found.effects:
        other = one.way.candidate
        assert one.required_bytes == other.estimate.peak.required_bytes - start.estimate.peak.required_bytes
        assert start.step is not None
        if other.step is not None:
            assert one.seconds == other.step.seconds - start.step.seconds
            assert one.pace_ratio == other.step.tokens_per_second / start.step.tokens_per_second


def test_money_of_a_million_tokens_by_hand() -> None:
    start = what_if_for(model="8b", gpu="4090", method="lora").start
    assert start.step is not None
    price = start.scenario.cluster.gpu.price
    assert price is not None
    assert price.typical_usd is not None
    hours = 1_000_000 / start.step.tokens_per_second / 3600

    assert money(start) == pytest.approx(hours * price.typical_usd)


def test_money_of_a_run_where_its_length_is_known() -> None:
    found = what_if_for(model="8b", gpu="4090", method="lora", job=Job(tokens=20_000_000))

    assert found.start.cost is not None
    assert found.usd == found.start.cost.usd
    for one in found.effects:
        cost = one.way.candidate.cost
        if cost is not None and cost.usd is not None and found.start.cost.usd is not None:
            assert one.usd == cost.usd - found.start.cost.usd


# ---------------------------------------------------------------- order, refusals, quality


def test_the_best_come_first(found: WhatIf) -> None:
    turned = [one.turned for one in found.effects]
    assert turned == sorted(turned, reverse=True)
    for one, other in zip(found.effects, found.effects[1:], strict=False):
        if one.turned == other.turned and one.way.candidate.verdict == other.way.candidate.verdict == "fits":
            assert one.pace_ratio is not None
            assert other.pace_ratio is not None
            assert one.pace_ratio >= other.pace_ratio - 0.011
        if one.turned == other.turned and one.way.candidate.verdict == other.way.candidate.verdict == "does_not_fit":
            assert one.required_bytes <= other.required_bytes


def test_what_turns_the_verdict_leads() -> None:
    found = what_if_for(model="8b", gpu="4090", method="lora", gradient_checkpointing=False)

    assert found.start.verdict == "does_not_fit"
    assert found.effects[0].turned > 0
    assert {"gradient_checkpointing": True} in [one.way.settings for one in found.effects if one.turned == 2]


def test_what_a_card_cannot_do_is_refused_with_the_reason(run: Run) -> None:
    arguments = ("what-if", "--model", "1b", "--gpu", "t4", "--method", "lora")
    text, document = run(*arguments).out, json.loads(run(*arguments, "--format", "json").out)

    (flash,) = (one for one in document["refused"] if one["settings"] == {"attention": "flash"})
    assert "cannot run FlashAttention-2" in flash["reason"]
    assert "attention flash" not in text
    assert "cannot be made here" in text


def test_the_price_in_quality_is_said_by_its_rule() -> None:
    found = what_if_for(model="8b", gpu="4090", method="lora")
    (quantised,) = (one for one in found.effects if one.way.settings == {"method": "qlora"})

    assert "QLT005" in [reason.code for reason in quantised.reasons]


def test_every_rule_on_quality_exists() -> None:
    assert {rule.code for rule in RULES} >= QUALITY


def test_without_a_method_the_preferred_one_is_at_hand() -> None:
    assert what_if_for(model="8b", gpu="4090").start.method == "lora"
    nothing = what_if_for(model="70b", gpu="4090")
    assert nothing.start.method == "qlora"  # nothing fits: the nearest to it
    assert nothing.start.verdict == "does_not_fit"


# ---------------------------------------------------------------- what is shown


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> WhatIf:
    """With made-up times, prices and sentences, one note, and no card that prices choose."""
    monkeypatch.setattr(sys.modules["planner.recommend.candidates"], "timed", step_of)
    monkeypatch.setattr("planner.recommend.whatif.money", lambda one: 100 / one.step.tokens_per_second)
    found = what_if_for(model="8b", gpu="4090", method="lora")
    kept = tuple(worded(one) for one in found.effects if one.way.gpu == "rtx4090")
    return replace(
        found, effects=kept, notes=("a note that is rather long, so that it wraps where the screen is narrow",)
    )


def worded(one: Effect) -> Effect:
    """The effect with sentences that no rule will reword."""
    return replace(one, reasons=tuple(replace(reason, text=f"as {reason.code} has it") for reason in one.reasons))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_drawn_at_every_width(steady: WhatIf, golden: Callable[[str, str], None], width: int) -> None:
    text = plain(what_if_lines(steady, Screen(width)), Screen(width))

    assert max(map(len, text.splitlines())) <= width
    golden(f"what_if_{width}.txt", text)


def test_markdown(steady: WhatIf, golden: Callable[[str, str], None]) -> None:
    golden("what_if.md", what_if_markdown(steady))


def test_exit_codes(run: Run) -> None:
    assert run("what-if", "--model", "8b", "--gpu", "4090").code == 0
    assert run("what-if", "--model", "405b", "--gpu", "4090", "--method", "full").code == 4
    assert run("what-if", "--gpu", "4090").code == 2
    assert run("what-if", "--model", "8b", "--gpu", "4090", "--evidence", "traced").code == 2


def test_the_run_is_priced_where_the_data_is_known(run: Run) -> None:
    arguments = ("what-if", "--model", "8b", "--gpu", "4090", "--dataset-tokens", "20M", "--epochs", "2")
    document = json.loads(run(*arguments, "--format", "json").out)

    assert document["start"]["cost"]["usd"] > 0
    assert any(one["difference"]["usd"] for one in document["changes"])
    assert "US$: of the whole run" in run(*arguments).out
