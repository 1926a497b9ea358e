"""Rates and the roofline against numbers worked by hand; laws that every time must keep."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import pytest

from planner.catalog import load_model
from planner.closed_form import estimate
from planner.formulas.collectives import Axis, Exchange, Kind, Route, exchange_seconds
from planner.hardware import load_gpu
from planner.result import TIME_PARTS, StepTime, TimePart
from planner.spec import Cluster, Gpu, Method, Scenario, Share
from planner.stacks import resolve
from planner.throughput import Load, step_time
from planner.throughput.constants import constants
from planner.throughput.links import route_of
from planner.throughput.offloading import Offloading
from planner.throughput.rates import Rates, peak_of, rates_of
from planner.throughput.record import IN_WORDS, LEAST, records
from planner.throughput.roofline import (
    computing_seconds,
    micro_seconds,
    parts_of,
    seconds_by_axis,
    seconds_of,
    waiting_seconds,
)
from planner.throughput.work import Work, work_of
from tests.throughput.small import card, llama

RATES = Rates(
    flops_per_s=100.0,
    wide_flops_per_s=10.0,
    attention_flops_per_s=50.0,
    bytes_per_s=20.0,
    dequant_bytes_per_s=4.0,
    routes={"shard": Route(4, 4, inside=5.0, outside=None, hop_inside=0.01, hop_outside=0.0)},
    exposed=0.5,
    host_bytes_per_s=2.0,
    bus_bytes_per_s=8.0,
    dram_bytes_per_s=16.0,
    drive_bytes_per_s=4.0,
    kernel_s=0.1,
    collective_s=0.5,
)
WORK = Work(
    tokens=10,
    micro_steps=2,
    sequences=4,
    products=300,
    wide_products=10,
    attention=50,
    weights=20,
    moved=40,
    dequantised=8,
    kernels=5,
    collectives=3,
    exchanges=(
        Exchange("shard", "all_gather", 4, sent=15, calls=20, hidden=True),
        Exchange("shard", "all_reduce", 4, sent=5, calls=10, hidden=False),
    ),
    updated=60,
    update_products=100,
    update_kernels=10,
    paged=4,
)


def test_computing_adds_what_runs_one_after_another() -> None:
    """300 / 100 + 10 / 10 + 50 / 50 + 40 / 20 = 7; products wait for their weights: 200 / 20 = 10 in place of 3."""
    assert computing_seconds(WORK, RATES) == 7
    assert computing_seconds(WORK._replace(weights=200), RATES) == 14


def test_parts_by_hand() -> None:
    """Two micro-steps: compute 2 * 7; dequantise 2 * 8 / 4; launch 2 * (5 * 0.1 + 3 * 0.5); communicate 15 / 5 + 20 * 3
    * 0.01 and 5 / 5 + 10 * 6 * 0.01; optimizer 60 / 20 + 100 / 100 + 10 * 0.1; offload 4 / 2."""
    parts = parts_of(WORK, RATES)

    assert tuple(parts) == tuple(part for part in TIME_PARTS if part not in ("reference", "generate"))
    assert dict(parts) == pytest.approx(
        {"compute": 14, "dequantise": 4, "launch": 4, "communicate": 5.2, "bubble": 0, "optimizer": 5, "offload": 2}
    )
    assert dict(seconds_by_axis(WORK, RATES)) == {"shard": pytest.approx(5.2)}
    assert waiting_seconds(WORK, RATES) == pytest.approx(1.6)


def test_the_step_by_hand() -> None:
    """Device (18^3 + 4^3)^(1/3) = 18.0656, and 1.6 that it waits; half of 3.6 shows beside it; 5 and 2 come after."""
    assert seconds_of(WORK, RATES, parts_of(WORK, RATES)) == pytest.approx(18.0656 + 1.6 + 1.8 + 7, abs=1e-3)


def test_offloaded_states_stream_beside_computing_and_return_after() -> None:
    """24 / 8 = 3 of the bus beside it, of which half shows; 8 / 8 back up, 32 / 16 on the processor, 4 / 4 on a drive
    after; and the 2 that were paged."""
    away = WORK._replace(offloading=Offloading(streamed=24, waited=8, updated=32, drive=4))
    parts = parts_of(away, RATES)

    assert parts["offload"] == pytest.approx(2 + 3 + 1 + 2 + 1)
    without = seconds_of(WORK, RATES, parts_of(WORK, RATES))
    assert seconds_of(away, RATES, parts) == pytest.approx(without + 3 / 2 + 4)


def test_a_pipeline_waits_for_a_share_of_what_it_works() -> None:
    """Three quarters of 18.0656 + 1.6 + 1.8."""
    piped = WORK._replace(bubble=0.75)
    parts = parts_of(piped, RATES)

    assert parts["bubble"] == pytest.approx(0.75 * 21.4656, abs=1e-3)
    assert seconds_of(piped, RATES, parts) == pytest.approx(1.75 * 21.4656 + 7, abs=1e-3)


def test_a_slow_link_sets_the_pace() -> None:
    parts: dict[TimePart, float] = {"compute": 2.0, "dequantise": 0.0, "launch": 0.0, "communicate": 10.0}

    assert micro_seconds(parts, 0.5) == 11


# ---------------------------------------------------------------- rates


def scenario(
    gpu: Gpu, method: Method = "lora", gpus: int = 1, nodes: int = 1, model: str = "llama-3.1-8b", **settings: Any
) -> Scenario:
    facts = {"autocast": "none", **settings}
    if method != "full":
        facts = {"adapter_dtype": "bf16", **facts}
    cluster = Cluster(gpu=gpu, gpus=gpus, nodes=nodes)
    return resolve(load_model(model).model, cluster, method, facts, "plain")


def timed(one: Scenario, load: Load | None = None) -> StepTime:
    found = step_time(one, estimate(one), load)
    assert found is not None
    return found


def test_a_profiles_own_figures_come_before_its_familys() -> None:
    family = constants().family(card(architecture="Ampere GA100"))
    own = constants().family(card(architecture="Ampere GA100", products=Share(0.5, 3, ("us",))))

    assert family.products.n == 0
    assert own.products == Share(0.5, 3, ("us",))
    assert own.attention == family.attention


def test_measured_cards_say_who_measured_them() -> None:
    for name in ("a100-80gb", "a100-40gb", "h100"):
        share = load_gpu(name).products
        assert share is not None
        assert share.n > 20
        assert len(share.sources) >= 4


def test_every_shipped_card_has_a_family() -> None:
    assert constants().family(card()).products.n == 0
    assert 0 < constants().family(load_gpu("mi300x")).products.value < 1


def test_a_card_without_bf16_computes_in_fp16() -> None:
    assert peak_of(load_gpu("t4")) == load_gpu("t4").peak_flops_per_s["fp16"]
    assert timed(scenario(load_gpu("t4"), model="llama-3.2-1b")).seconds > 0


def test_no_seconds_without_a_peak_or_a_link() -> None:
    dark = scenario(card(peak_flops_per_s=MappingProxyType({"fp32": 1e12})))
    alone = scenario(card(pcie_bytes_per_s=None), gpus=2, sharding="ddp")

    assert step_time(dark, estimate(dark)) is None
    assert step_time(alone, estimate(alone)) is None


def route(one: Scenario, axis: Axis = "shard") -> Route:
    found = route_of(axis, one, constants())
    assert found is not None
    return found


def test_links_inside_a_machine() -> None:
    """A bridge joins two cards; four of them talk over PCIe."""
    known, bridged = constants(), card(bridge_bytes_per_s=50e9)

    assert route(scenario(card(nvlink_bytes_per_s=300e9), gpus=4)).inside == 300e9 * known.nvlink.value
    assert route(scenario(bridged, gpus=2)).inside == 50e9 * known.nvlink.value
    assert route(scenario(bridged, gpus=4)).inside == 32e9 * known.pcie.value


def test_machines_send_with_all_their_network_cards() -> None:
    """Two machines of 8 cards and 100 GB/s: a gather of 16 GB brings 15 into each card, and 8 into each machine."""
    known = constants()
    fabric = card(nvlink_bytes_per_s=1e15, network_bytes_per_s=100e9)
    found = route(scenario(fabric, gpus=8, nodes=2))
    gather = Exchange("shard", "all_gather", 16, sent=15e9, calls=0, hidden=True)

    assert (found.within, found.machines) == (8, 2)
    assert exchange_seconds(gather, found) == pytest.approx(8e9 / (100e9 * known.network.value))
    assert exchange_seconds(gather, found._replace(inside=1e9)) == pytest.approx(15)


def test_what_the_user_says_of_the_network_counts() -> None:
    one = scenario(card(nvlink_bytes_per_s=300e9, network_bytes_per_s=100e9), gpus=8, nodes=2)
    slow = replace(one, cluster=replace(one.cluster, network_gbps=80.0))

    assert route(slow).outside == pytest.approx(route(one).outside / 10)  # type: ignore[operator]
    assert route_of("shard", scenario(card(nvlink_bytes_per_s=300e9), gpus=8, nodes=2), constants()) is None


def test_groups_side_by_side_share_the_network() -> None:
    """Tensor-parallel groups of 8 fill a machine, so each of 8 data-parallel groups has an eighth of its network."""
    known, gpu = constants(), card(nvlink_bytes_per_s=300e9, network_bytes_per_s=80e9)
    one = scenario(gpu, "full", gpus=8, nodes=4, sharding="fsdp")
    divided = replace(one, train=replace(one.train, tensor_parallel=8))

    assert (route(divided).ranks, route(divided).within) == (4, 1)
    assert route(divided).outside == pytest.approx(10e9 * known.network.value)
    assert route(divided, "tensor").outside is None
    assert route(divided, "tensor").inside == route(one).inside


def test_a_fabric_may_join_several_machines() -> None:
    """NVL72: 64 cards in 16 trays stand on one fabric, 144 on two."""
    rack = load_gpu("gb200")
    within = [route(scenario(rack, "full", gpus=4, nodes=n, sharding="fsdp")).within for n in (16, 36)]

    assert within == [64, 72]


@pytest.mark.parametrize(
    ("kind", "hops"),
    [
        ("all_gather", 511 * 14e-6 + (4096 - 512) * 3.4e-6),
        ("all_reduce", 2 * (9 * 14e-6 + 7 * 3.4e-6)),
        ("send", 14e-6),
    ],
)
def test_every_call_goes_around_the_ring(kind: Kind, hops: float) -> None:
    """4,096 cards in 512 machines: a ring has 4,095 steps, 511 of them over the network; a tree has log2(512) = 9."""
    found = route(scenario(load_gpu("h100"), "full", gpus=8, nodes=512, sharding="fsdp"))

    assert exchange_seconds(Exchange("shard", kind, 4096, 0.0, calls=1, hidden=True), found) == pytest.approx(hops)


def test_large_second_level_caches_are_a_prior_of_their_family() -> None:
    ada, ampere = (rates_of(scenario(card(architecture=name))) for name in ("Ada AD102", "Ampere GA102"))
    assert ada is not None
    assert ampere is not None
    assert ada.bytes_per_s > ampere.bytes_per_s


# ---------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    ("one", "group"),
    [
        (scenario(load_gpu("a100"), micro_batch_size=4), "A100 and H100"),
        (scenario(load_gpu("h100"), seq_len=64), "bound by the processor"),
        (scenario(load_gpu("a100"), seq_len=2048), "fewer than 4k"),
        (scenario(load_gpu("rtx3090"), micro_batch_size=4), "other cards"),
        (scenario(load_gpu("a100"), model="mixtral-8x7b", micro_batch_size=4), "mixtures"),
        (scenario(load_gpu("a100"), gpus=8, nodes=2, sharding="fsdp"), "several machines"),
        (scenario(load_gpu("24gb"), "full", optimizer="paged_adamw_32bit"), "states paged"),
    ],
)
def test_bounds_by_kind_of_run(one: Scenario, group: str) -> None:
    found = timed(one)
    record = next(record for name, record in records().items() if IN_WORDS[name] == found.basis.group)

    assert group in found.basis.group
    assert found.low == pytest.approx(found.seconds * record.low)
    assert found.high == pytest.approx(found.seconds * record.high)
    assert found.tokens_per_second == pytest.approx(one.train.tokens * one.cluster.world_size / found.seconds)


def test_hard_kinds_are_wide() -> None:
    for name, least in LEAST.items():
        assert records()[name].low <= 1 / least + 1e-3
        assert records()[name].high >= least
    assert {LEAST[name] for name in ("offload", "parallel", "moe", "launch")} == {2.0}


@pytest.mark.parametrize("name", ["b200", "t4", "h200", "a100-80gb-pcie", "l40s"])
def test_a_card_that_nobody_measured_is_a_factor_of_two_wide(name: str) -> None:
    found = timed(scenario(load_gpu(name), micro_batch_size=8, model="llama-3.2-3b"))

    assert found.basis.group == IN_WORDS["prior"]
    assert found.high >= 2 * found.seconds
    assert found.low <= found.seconds / 2


def test_slow_links_make_wide_bounds_where_they_matter() -> None:
    """QLoRA gathers a quarter, and a large batch hides it."""
    lora, large = (scenario(load_gpu("rtx3090"), gpus=2, sharding="fsdp", micro_batch_size=b) for b in (1, 32))

    assert timed(lora).basis.group == IN_WORDS["links"]
    assert timed(large).basis.group != IN_WORDS["links"]


def test_a_card_that_nobody_measured_is_said_to_be_a_prior() -> None:
    assert timed(scenario(load_gpu("b200"), micro_batch_size=4)).basis == ("stated", 0, (), IN_WORDS["prior"])
    assert timed(scenario(load_gpu("a100"), micro_batch_size=4)).basis.kind == "published"


def test_tight_memory_may_cost_half_a_step_more() -> None:
    """3342 / 2264 = 1.48."""
    one = scenario(load_gpu("a100"), micro_batch_size=4)
    found = estimate(one)
    tight = replace(found, peak=replace(found.peak, high_bytes=one.cluster.usable_bytes + 1))
    roomy, narrow = step_time(one, found), step_time(one, tight)

    assert roomy is not None
    assert narrow is not None
    assert narrow.high == pytest.approx(1.5 * roomy.high)
    assert (narrow.seconds, narrow.low) == (roomy.seconds, roomy.low)


def test_the_bound_is_the_longest_part() -> None:
    for one in (scenario(load_gpu("a100"), seq_len=64), scenario(load_gpu("a100"), micro_batch_size=8)):
        found = timed(one)
        assert found.parts[found.bound] == max(found.parts.values())


# ---------------------------------------------------------------- laws


CASES = [
    (model, gpu, method)
    for model in ("llama-3.2-1b", "llama-3.1-8b", "gemma-2-9b", "mixtral-8x7b")
    for gpu in ("a100", "rtx4090", "t4")
    for method in ("full", "lora", "qlora")
]


@pytest.fixture(params=CASES, ids=["-".join(case) for case in CASES])
def job(request: pytest.FixtureRequest) -> Scenario:
    model, gpu, method = request.param
    return scenario(load_gpu(gpu), method, model=model)


def changed(one: Scenario, **settings: Any) -> Scenario:
    return replace(one, train=replace(one.train, **settings))


def rising(values: list[float]) -> bool:
    return all(left <= right * (1 + 1e-9) for left, right in pairwise(values))


def test_more_tokens_are_never_faster(job: Scenario) -> None:
    assert rising([timed(changed(job, micro_batch_size=b)).seconds for b in (1, 2, 4, 16)])
    assert rising([timed(changed(job, seq_len=s)).seconds for s in (128, 1024, 4096, 16384)])


def test_throughput_never_falls_with_the_batch(job: Scenario) -> None:
    """From two sequences on: a single one spares eager attention some copies."""
    assert rising([timed(changed(job, micro_batch_size=b)).tokens_per_second for b in (2, 4, 16)])


def test_checkpointing_is_never_faster(job: Scenario) -> None:
    with_it, without = (timed(changed(job, gradient_checkpointing=on)).seconds for on in (True, False))

    assert with_it > without


def test_a_faster_card_is_never_slower(job: Scenario) -> None:
    gpu = job.cluster.gpu
    peaks = {name: 2 * peak for name, peak in gpu.peak_flops_per_s.items()}
    for faster in (
        replace(gpu, peak_flops_per_s=peaks),
        replace(gpu, bandwidth_bytes_per_s=2 * gpu.bandwidth_bytes_per_s),
    ):
        assert timed(replace(job, cluster=Cluster(gpu=faster))).seconds <= timed(job).seconds


def test_qlora_is_never_faster_than_lora_at_equal_settings() -> None:
    """On eager kernels, with adapters of one dtype: dequantising is work, and nothing is saved for it."""
    for tokens in (128, 2048, 65536):
        lora, qlora = (scenario(load_gpu("a100"), method, seq_len=tokens) for method in ("lora", "qlora"))
        assert timed(qlora).seconds >= timed(lora).seconds


def test_accumulation_scales_all_but_the_update(job: Scenario) -> None:
    """Eight micro-steps: eight times everything but the update, which gains the sums of seven."""
    one, eight = (timed(changed(job, grad_accumulation=n)) for n in (1, 8))

    for part in ("compute", "dequantise", "launch"):
        assert eight.parts[part] == pytest.approx(8 * one.parts[part])
    assert one.parts["optimizer"] <= eight.parts["optimizer"] < 8 * one.parts["optimizer"] + 1e-9
    assert eight.tokens_per_second >= one.tokens_per_second


@pytest.mark.parametrize("sharding", ["ddp", "zero1", "zero3", "fsdp"])
def test_a_cheaper_link_is_never_faster(sharding: str) -> None:
    gpu = load_gpu("a100")
    seconds = [
        timed(scenario(replace(gpu, nvlink_bytes_per_s=rate), "full", 4, sharding=sharding)).seconds
        for rate in (600e9, 300e9, 50e9, None)
    ]

    assert rising(seconds)
    assert seconds[-1] > seconds[0]


def test_more_machines_are_never_faster_than_one_of_as_many_cards() -> None:
    one, two = (scenario(load_gpu("h100"), "full", 8 // n, n, sharding="fsdp") for n in (1, 2))

    assert timed(two).seconds >= timed(one).seconds


def test_padding_costs_and_short_samples_attend_less() -> None:
    one = scenario(load_gpu("a100"), micro_batch_size=8)

    assert timed(one, Load(8192, 1024)).seconds < timed(one, Load(16384, 1024)).seconds
    assert timed(one, Load(16384, 256)).seconds < timed(one, Load(16384, 2048)).seconds


def test_half_the_load_has_the_tokens_of_half() -> None:
    one = scenario(load_gpu("a100"), micro_batch_size=8)
    found = timed(one, Load(8192, 1024))

    assert found.tokens_per_second * found.seconds == pytest.approx(8192)


# ---------------------------------------------------------------- what the closed form does not know


def test_what_only_a_trace_can_count_has_no_time() -> None:
    bare = replace(llama(layers=1), blocks=(), layout=())
    one = scenario(card())

    assert step_time(replace(one, model=bare), estimate(one)) is None


def every_method() -> Iterator[Scenario]:
    for optimizer in ("adamw_fused", "adamw_loop", "adafactor", "lion_8bit", "muon", "sgd"):
        yield scenario(load_gpu("a100"), "full", optimizer=optimizer)


def test_every_optimizer_has_a_time() -> None:
    seconds = {one.train.optimizer: timed(one).parts["optimizer"] for one in every_method()}

    assert seconds["sgd"] < seconds["adamw_fused"] < seconds["adamw_loop"]
    assert seconds["lion_8bit"] < seconds["adamw_fused"]


def test_deepseek_and_sharded_experts_are_timed() -> None:
    one = scenario(load_gpu("h200"), "lora", 8, model="deepseek-v2-lite", sharding="fsdp")

    assert work_of(one, estimate(one)).attention > 0
    assert timed(one).seconds > 0
