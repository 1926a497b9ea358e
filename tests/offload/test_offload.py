"""Offloaded states: what leaves the card arrives in RAM, per machine; what no engine does is refused."""

from dataclasses import replace
from typing import Any

import pytest

from planner.catalog import load_model
from planner.closed_form import estimate
from planner.errors import UnsupportedScenario
from planner.estimators import with_ram
from planner.formulas.params import model_params
from planner.hardware import load_gpu
from planner.recommend.verdict import judge
from planner.result import NO_RAM, Estimate
from planner.spec import Cluster, Method
from planner.stacks.resolve import resolve

MODEL = load_model("llama-3.1-8b").model
P = model_params(MODEL)


def found(method: Method = "full", gpus: int = 8, nodes: int = 1, stack: str = "trl", **settings: Any) -> Estimate:
    cluster = Cluster(gpu=load_gpu("a100-80gb"), gpus=gpus, nodes=nodes)
    return estimate(resolve(MODEL, cluster, method, settings, stack))


@pytest.mark.parametrize(
    ("sharding", "offload", "bytes_per_parameter"),
    [
        ("zero1", "optimizer", 18),
        ("zero2", "optimizer", 18),
        ("zero3", "optimizer", 18),
        ("zero3", "optimizer,parameters", 20),
        ("zero3", "parameters", 2),
        ("fsdp", "optimizer,parameters", 16),
    ],
)
@pytest.mark.parametrize(("gpus", "nodes"), [(8, 1), (8, 4), (1, 1)])
def test_ram_of_a_machine(sharding: str, offload: str, bytes_per_parameter: int, gpus: int, nodes: int) -> None:
    """ZeRO: master, gradient, two moments in fp32 and 16-bit copies. FSDP2: fp32 weights, gradients and two moments."""
    host = found(gpus=gpus, nodes=nodes, sharding=sharding, offload=offload, pin_memory=False).host
    largest = 2 * gpus * MODEL.lm_head.params  # a staging buffer of stages 1 and 2
    rounded = host.pinned - 2 * P / nodes if host.pinned else 0  # ZeRO-3 page-locks parameters whatever is said
    assert host.steady_bytes - rounded == pytest.approx(bytes_per_parameter * P / nodes, rel=2e-3, abs=largest)


@pytest.mark.parametrize("gpus", [1, 3, 8])
def test_a_page_locked_block_has_a_power_of_two_of_bytes(gpus: int) -> None:
    """torch's allocator of page-locked memory rounds up, by no more than twice."""
    both = "optimizer,parameters"
    loose = found(gpus=gpus, sharding="zero3", offload=both, pin_memory=False).host
    host = found(gpus=gpus, sharding="zero3", offload=both).host

    blocks = host.parameters // gpus
    assert blocks & (blocks - 1) == 0
    assert 1 <= blocks * gpus / (2 * P) < 2.001
    assert loose.gradients < host.gradients < 2 * loose.gradients
    assert host.pinned == host.parameters + host.gradients
    assert host.optimizer == loose.optimizer


def test_fsdp_locks_each_shard_in_a_block_of_its_own() -> None:
    both = "optimizer,parameters"
    loose = found(sharding="fsdp", offload=both, pin_memory=False).host
    host = found(sharding="fsdp", offload=both).host

    assert (loose.parameters, loose.gradients) == pytest.approx((4 * P, 4 * P), rel=1e-3)
    assert loose.parameters < host.parameters == host.gradients < 2 * loose.parameters
    assert host.pinned == 2 * host.parameters
    assert host.optimizer == loose.optimizer


@pytest.mark.parametrize("sharding", ["zero1", "zero2", "zero3"])
def test_the_optimizer_leaves_the_card(sharding: str) -> None:
    here, away = found(sharding=sharding), found(sharding=sharding, offload="optimizer")
    assert here.phases["forward"].optimizer == pytest.approx(12 * P / 8, rel=1e-3)
    assert away.phases["forward"].optimizer == away.phases["optimizer_step"].optimizer == 0
    assert away.phases["optimizer_step"].gradients == 0
    assert away.peak.allocated_bytes < here.peak.allocated_bytes
    assert here.host.steady_bytes == 0


def test_parameters_leave_the_card() -> None:
    here, away = found(sharding="zero3"), found(sharding="zero3", offload="optimizer,parameters")
    assert here.phases["load"].weights == pytest.approx(2 * P / 8, rel=1e-3)
    assert away.phases["load"].weights == 0
    sharded = found(sharding="fsdp", offload="optimizer,parameters")
    assert sharded.phases["forward"].weights == sharded.phases["optimizer_step"].gradients == 0
    assert sharded.phases["forward"].temporaries > 0


def test_on_a_drive() -> None:
    ram = found(sharding="zero3", offload="optimizer,parameters").host
    drive = found(sharding="zero3", offload="optimizer,parameters", offload_device="nvme").host
    assert drive.nvme == pytest.approx(16 * P + max(2 * P - 8 * 2 * 10**9, 0), rel=1e-3)
    assert drive.optimizer == 0 < ram.optimizer


@pytest.mark.parametrize("checkpointing", [True, False])
def test_activations_leave_the_card(checkpointing: bool) -> None:
    settings: dict[str, Any] = {"gradient_checkpointing": checkpointing, "micro_batch_size": 4, "attention": "sdpa"}
    here = found("lora", gpus=1, **settings)
    away = found("lora", gpus=1, offload="activations", **settings)
    saved = here.phases["backward"].activations - away.phases["backward"].activations
    inputs = 32 * 2 * MODEL.hidden_size * 4 * 2048
    assert away.peak.allocated_bytes < here.peak.allocated_bytes
    assert away.host.activations >= inputs
    assert away.host.activations >= saved > 0
    if checkpointing:
        assert away.host.activations == inputs
        assert saved == inputs * 27 // 32  # five stay


def test_unpinned_memory_is_not_counted_as_pinned() -> None:
    assert found(sharding="zero2", offload="optimizer", pin_memory=False).host.pinned == 0


@pytest.mark.parametrize(
    ("sharding", "gpus", "nodes", "copies"),
    [("ddp", 8, 1, 8), ("zero2", 8, 2, 8), ("fsdp", 8, 2, 1), ("zero3", 8, 1, 1)],
)
def test_loading(sharding: str, gpus: int, nodes: int, copies: int) -> None:
    assert found(gpus=gpus, nodes=nodes, sharding=sharding).host.load == copies * 2 * P


def test_loading_onto_one_card_takes_a_layer_at_most() -> None:
    assert found("lora", gpus=1).host.load < 2 * P / 10
    assert found("lora", gpus=1, stack="hf").host.load == 2 * P
    assert found("qlora", gpus=8).host.load < 8 * 2 * P / 10


def test_paged_states_may_lie_in_ram() -> None:
    one = found(gpus=1, optimizer="paged_adamw_32bit")
    assert one.host.optimizer == one.peak.managed_bytes == one.peak.host_bytes > 0


def test_a_trace_has_the_ram_of_the_closed_form() -> None:
    scenario = resolve(MODEL, Cluster(gpu=load_gpu("a100-80gb"), gpus=8), "full", {"sharding": "zero2"}, "trl")
    bare = replace(estimate(scenario), host=NO_RAM)
    assert with_ram(lambda _scenario: bare)(scenario).host == estimate(scenario).host != NO_RAM
    unknown = replace(scenario, model=replace(scenario.model, blocks=(), layout=()))
    assert with_ram(lambda _scenario: bare)(unknown).host == NO_RAM


@pytest.mark.parametrize("ram", [64, 200])
def test_ram_is_a_constraint(ram: int) -> None:
    cluster = Cluster(gpu=load_gpu("a100-80gb"), gpus=8, host_memory_bytes=ram * 2**30)
    settings = {"sharding": "zero3", "offload": "optimizer,parameters"}
    estimated = estimate(resolve(MODEL, cluster, "full", settings, "trl"))
    assert 64 < estimated.host.required_on(cluster) / 2**30 < 200
    assert judge(estimated, cluster) == ("fits" if ram == 200 else "does_not_fit")


@pytest.mark.parametrize(
    ("settings", "wrong", "nearest"),
    [
        ({"sharding": "ddp", "offload": "optimizer"}, "--sharding ddp", "zero2"),
        ({"sharding": "ddp", "offload": "parameters"}, "--sharding ddp", "zero3"),
        ({"sharding": "zero2", "offload": "parameters"}, "--sharding zero2", "zero3"),
        ({"sharding": "zero2", "offload": "optimizer", "offload_device": "nvme"}, "nvme", "zero3"),
        ({"sharding": "fsdp", "offload": "optimizer"}, "together", "optimizer,parameters"),
        (
            {"sharding": "fsdp", "offload": "optimizer,parameters", "stack": "hf,transformers=4.48.1"},
            "version 1",
            "zero3",
        ),
        (
            {"sharding": "hsdp", "offload": "optimizer,parameters", "stack": "hf,transformers=4.48.1"},
            "version 1",
            "zero3",
        ),
        ({"sharding": "zero2", "offload": "optimizer", "optimizer": "adamw_8bit"}, "adamw_8bit", "adamw"),
        ({"sharding": "ddp", "offload": "activations", "stack": "hf"}, "stack hf", "--stack trl"),
    ],
)
def test_what_no_engine_offloads(settings: dict[str, Any], wrong: str, nearest: str) -> None:
    with pytest.raises(UnsupportedScenario) as caught:
        found(**settings)
    assert wrong in str(caught.value)
    assert f"use --{nearest}" in str(caught.value) or nearest in str(caught.value).split("use ")[-1]
    assert "\n" not in str(caught.value)
