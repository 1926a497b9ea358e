"""Counts of a step against numbers worked by hand."""

from dataclasses import replace
from typing import Any

import pytest

from planner.catalog import load_model
from planner.closed_form import estimate
from planner.closed_form.recipe import key_of, recipe_of
from planner.formulas.blocks import block_tape
from planner.formulas.flops import effective_length
from planner.formulas.params import active_params, outer_params
from planner.formulas.traffic import moved
from planner.formulas.updates import update_of
from planner.spec import Cluster, Method, ModelSpec, Offload, Scenario
from planner.stacks import resolve
from planner.throughput.offloading import offloading
from planner.throughput.work import Load, Work, work_of
from tests.throughput.small import card, llama

# One layer, h 64, f 128, 4 heads of 16, 2 key/value heads, vocabulary 100:
# blocks = q 64*64 + k 64*32 + v 64*32 + o 64*64 + 3 * 64*128 + two norms of 64 = 36,992, and the last norm's 64 are
# outside; head = 6,400; rank 16 adapts q 128 + k 96 + v 96 + o 128 + 3 * 192 = 1,024 per unit of rank
TINY = llama(h=64, f=128, layers=1, n=4, k=2, v=100)
BLOCK, HEAD, ADAPTERS = 36_992, 6_400, 16 * 1024
TOTAL = BLOCK + HEAD + 6_400 + 64
# causal attention at 2048 tokens, 4 heads of 16: 2 * 2048 * 64 = 262,144 for one token's forward
FORWARD = 262_144


Sent = tuple[str, str, float, int, bool]


def scenario(method: Method = "full", *, model: ModelSpec = TINY, gpus: int = 1, **settings: Any) -> Scenario:
    facts = {"autocast": "none", **settings}
    if method != "full":
        facts = {"adapter_dtype": "bf16", **facts}
    return resolve(model, Cluster(gpu=card(24), gpus=gpus), method, facts, "plain")


def work(method: Method = "full", load: Load | None = None, **settings: Any) -> Work:
    one = scenario(method, **settings)
    return work_of(one, estimate(one), load)


@pytest.mark.parametrize(
    ("method", "checkpointing", "flops"),
    [
        ("full", True, 6 * (BLOCK + HEAD) + 2 * BLOCK),
        ("full", False, 6 * (BLOCK + HEAD)),
        ("lora", True, 4 * (BLOCK + HEAD) + 2 * BLOCK + 8 * ADAPTERS),
        ("lora", False, 4 * (BLOCK + HEAD) + 6 * ADAPTERS),
        ("qlora", False, 4 * (BLOCK + HEAD) + 6 * ADAPTERS),
    ],
)
def test_products_of_a_token(method: Method, checkpointing: bool, flops: int) -> None:
    found = work(method, gradient_checkpointing=checkpointing)

    assert found.products / 2048 == flops
    assert found.attention / 2048 == FORWARD * (3.5 + checkpointing)


def test_fp32_adapters_without_autocast_run_without_tensor_cores() -> None:
    found = work("lora", adapter_dtype="fp32")

    assert found.wide_products / 2048 == 8 * ADAPTERS
    assert found.products / 2048 == 4 * (BLOCK + HEAD) + 2 * BLOCK


def test_fp32_weights_without_autocast_are_fp32_products() -> None:
    found = work("full", weights_dtype="fp32")

    assert found.products == 0
    assert found.wide_products / 2048 == 6 * (BLOCK + HEAD) + 2 * BLOCK


def test_a_trained_head_costs_what_a_trained_head_costs() -> None:
    frozen, trained = work("lora"), work("lora", modules_to_save=("lm_head",))

    assert (trained.products - frozen.products) / 2048 == 2 * HEAD


def test_a_sliding_window_spares_attention() -> None:
    """s 4, w 2: position p sees min(p, w) keys, in the mean w - w^2 / 2s = 1.5, which plain causal attention sees at a
    length of 3."""
    assert effective_length(4, 2) == 3
    window = replace(TINY.blocks[0].attention, window=512)
    model = replace(TINY, blocks=(replace(TINY.blocks[0], attention=window),))

    found = work(model=model, attention="flash")

    assert found.attention / work(attention="flash").attention == pytest.approx((2 * 512 - 512**2 / 2048) / 2048)


def test_eager_attention_computes_what_is_masked() -> None:
    assert work(attention="eager").attention == 2 * work(attention="flash").attention


def test_a_load_counts_its_own_tokens_and_lengths() -> None:
    full, half = work(), work(load=Load(1024, 512))

    assert half.products == full.products / 2
    assert half.attention == full.attention / 2 / 4
    assert half.updated == full.updated


# ---------------------------------------------------------------- bytes that move


def test_traffic_of_a_fused_layer() -> None:
    """Forward, bytes per token: two norms 4h + 4, two residual sums 6h, SwiGLU 6f: 20h + 6f + 8. Backward: norms 6h + 4
    each, SwiGLU 10f; gradients meet at the stream twice (6h each), after the first norm (three readers, 12h) and the
    second (6h): 42h + 10f + 8."""
    one = scenario("full", kernels="fused")
    found = moved(block_tape(TINY.blocks[0], 64, recipe_of(TINY, key_of(one), one.stack)))

    h, f = 64, 128
    assert found.forward.token == 20 * h + 6 * f + 8
    assert found.backward.token == 42 * h + 10 * f + 8
    # norm, q, k, v, flash, o, sum, norm, gate, up, SwiGLU, down, sum
    assert found.forward_kernels == 13


def test_unfused_code_moves_and_starts_more() -> None:
    fused, eager = work(kernels="fused"), work(kernels="eager")

    assert eager.moved > 2 * fused.moved
    assert eager.kernels > 1.5 * fused.kernels


def test_adapters_in_fp32_are_cast_for() -> None:
    assert work("lora", adapter_dtype="fp32").moved > 1.3 * work("lora", adapter_dtype="bf16").moved


def test_every_expert_of_a_loop_starts_its_kernels() -> None:
    model = load_model("mixtral-8x7b").model
    cluster = Cluster(gpu=card(80))
    loop, grouped = (
        resolve(model, cluster, "lora", {"lora_targets": ("q_proj",)}, stack)
        for stack in ("hf,transformers=4.48", "hf,transformers=5.23")
    )

    kernels = [work_of(one, estimate(one)).kernels for one in (loop, grouped)]

    assert kernels[0] > 1.8 * kernels[1]


# ---------------------------------------------------------------- dequantisation, optimizer, paging


def test_eight_bit_weights_are_dequantised_for_the_backward_alone() -> None:
    quantized = BLOCK - 128

    assert work("qlora", quant="int8").dequantised == 3 * quantized
    assert work("qlora", quant="int8", gradient_checkpointing=False).dequantised == 3 * quantized


def test_weights_are_read_once_a_pass() -> None:
    """Three passes over the layers, two over the head, of 2 bytes."""
    assert work().weights == 2 * (3 * BLOCK + 2 * HEAD)
    assert work(load=Load(1, 1)).weights == work().weights


def test_few_tokens_read_few_experts() -> None:
    """Of 128 experts one token reads 8; a thousand read them all."""
    model = load_model("qwen3-30b-a3b").model
    one = resolve(model, Cluster(gpu=card(80)), "lora", {"lora_targets": ("q_proj",)}, "trl")
    found = [work_of(one, estimate(one), Load(tokens, 1)).weights for tokens in (1, 1000)]

    assert found[0] == pytest.approx(
        2 * (3 * (active_params(model) - outer_params(model)) + 2 * 151936 * 2048), rel=0.01
    )
    assert found[1] > 8 * found[0]


def test_dequantisation_is_a_fixed_cost_per_micro_step() -> None:
    quantized = BLOCK - 128  # norms are no matrices

    assert work("qlora").dequantised == pytest.approx(3 * quantized * 2.53)
    assert work("qlora", seq_len=4096).dequantised == work("qlora").dequantised
    assert work("qlora", gradient_checkpointing=False).dequantised == pytest.approx(2 * quantized * 2.53)
    assert work("lora").dequantised == 0


@pytest.mark.parametrize(
    ("name", "e", "per_parameter"),
    [
        ("adamw_fused", 2, 2 * (7 + 3)),  # weight, gradient, two moments read; three written; three to clip
        ("adamw_foreach", 2, 2 * (20 + 3)),
        ("adamw_8bit", 2, 2 * (3 + 3) + 4),  # two states of a byte, read and written
        ("paged_adamw_32bit", 2, 2 * (3 + 3) + 16),
        ("sgd", 4, 4 * (3 + 3)),
    ],
)
def test_bytes_of_an_update(name: str, e: int, per_parameter: int) -> None:
    assert update_of(name, params=10, tensors=1, e=e, hidden=64, accumulated=0).moved == 10 * per_parameter


def test_each_further_micro_step_adds_to_the_gradients() -> None:
    once, thrice = (update_of("sgd", params=10, tensors=1, e=4, hidden=64, accumulated=n) for n in (0, 2))

    assert thrice.moved - once.moved == 2 * 3 * 4 * 10


def test_only_muon_multiplies_in_its_update() -> None:
    """Five steps of X X^T, A A and B X on a square matrix of side h: 5 * 6h^3 FLOPs for h^2 entries."""
    assert update_of("muon", params=64 * 64, tensors=1, e=2, hidden=64, accumulated=0).products == 5 * 6 * 64**3
    assert update_of("adamw_loop", params=1, tensors=3, e=2, hidden=64, accumulated=0).kernels == 30


def test_states_page_only_where_they_do_not_fit() -> None:
    one = scenario("full", optimizer="paged_adamw_32bit", model=llama(layers=1))
    found = estimate(one)
    managed, required = found.peak.managed_bytes, found.peak.required_bytes
    assert managed > 0

    def paged(free: int) -> float:
        gpu = replace(one.cluster.gpu, memory_bytes=required + free)
        return work_of(replace(one, cluster=Cluster(gpu=gpu)), found).paged

    assert paged(managed) == 0
    assert paged(managed - 1000) == 2 * 1000
    assert paged(0) == 2 * managed


# ---------------------------------------------------------------- communication


def exchanges(method: Method = "full", stack: str = "plain", nodes: int = 1, **settings: Any) -> tuple[Sent, ...]:
    gpus = settings.pop("gpus")
    facts = {"autocast": "none", "adapter_dtype": "bf16", **settings}
    one = resolve(TINY, Cluster(gpu=card(24), gpus=gpus, nodes=nodes), method, facts, stack)
    return tuple((x.axis, x.kind, x.sent, x.calls, x.hidden) for x in work_of(one, estimate(one)).exchanges)


def test_sharded_weights_are_gathered_twice_and_gradients_summed_once_a_micro_step() -> None:
    """Full, 4 ranks, 8 micro-steps: two gathers of 2 bytes a parameter, of which three quarters come from others."""
    assert exchanges(gpus=4, sharding="fsdp", grad_accumulation=8) == (
        ("shard", "all_gather", 8 * 4 * TOTAL * 3 / 4, 16, True),
        ("shard", "reduce_scatter", 8 * 2 * TOTAL * 3 / 4, 8, True),
    )
    assert work(gpus=4, sharding="fsdp").collectives == 3


def test_gathered_weights_that_stay_are_gathered_once() -> None:
    found = exchanges(gpus=4, sharding="fsdp", reshard_after_forward=False)

    assert found[0] == ("shard", "all_gather", 2 * TOTAL * 3 / 4, 1, True)


@pytest.mark.parametrize(
    ("stack", "sharding", "sums"),
    [
        ("plain", "fsdp", 8),
        ("trl", "fsdp", 1),
        ("hf", "ddp", 1),
        ("plain", "ddp", 8),
        ("trl", "zero1", 1),
        ("trl", "zero2", 8),
        ("trl", "zero3", 8),
    ],
)
def test_trainers_sum_gradients_once_a_step_and_deepspeed_as_its_stages_do(
    stack: str, sharding: str, sums: int
) -> None:
    """2 bytes a parameter; an all-reduce is two halves, a reduce-scatter one."""
    found = exchanges(stack=stack, gpus=4, sharding=sharding, grad_accumulation=8)
    summed = next(sent for _, kind, sent, _, _ in found if kind != "all_gather")

    assert summed == sums * (1 if sharding in ("fsdp", "zero3") else 2) * 2 * TOTAL * 3 / 4


def test_hybrid_shards_gather_inside_the_machine_and_sum_among_machines() -> None:
    """Two machines of 4: gathers among 4; of what is left after the reduce-scatter a quarter is summed by two."""
    assert exchanges(gpus=4, nodes=2, sharding="hsdp") == (
        ("shard", "all_gather", 4 * TOTAL * 3 / 4, 2, True),
        ("shard", "reduce_scatter", 2 * TOTAL * 3 / 4, 1, True),
        ("replicate", "all_reduce", 2 * 2 * TOTAL / 4 / 2, 1, True),
    )


def test_a_frozen_base_is_gathered_and_its_adapters_summed() -> None:
    gathered, summed = exchanges("lora", gpus=2, sharding="zero3")

    assert gathered[2] == 4 * TOTAL / 2
    assert summed[2] == 2 * ADAPTERS / 2


def test_packed_weights_travel_only_where_they_are_sharded() -> None:
    quantized = BLOCK - 128
    kept = 4 * (TOTAL - quantized)

    assert exchanges("qlora", gpus=2, sharding="fsdp", quant_storage="uint8")[0][2] == kept / 2
    assert exchanges("qlora", gpus=2, sharding="fsdp", quant_storage="bf16")[0][2] == (kept + quantized) / 2


@pytest.mark.parametrize("sharding", ["ddp", "zero1", "zero2"])
def test_whole_weights_sum_their_gradients_once_a_step(sharding: str) -> None:
    full, lora = (exchanges(method, gpus=4, sharding=sharding) for method in ("full", "lora"))

    assert full[0][:3] == ("shard", "all_reduce", 2 * 2 * TOTAL * 3 / 4)
    assert lora[0][2] == 2 * 2 * ADAPTERS * 3 / 4
    assert not work(gpus=4, sharding=sharding).gathers
    assert work(gpus=4, sharding=sharding).collectives == 0


def test_zero_gathers_what_was_updated_while_nothing_runs_beside() -> None:
    found = exchanges(gpus=4, sharding="zero2")

    assert found[1] == ("shard", "all_gather", 2 * TOTAL * 3 / 4, 1, False)
    assert len(exchanges(gpus=4, sharding="ddp")) == 1


def test_fp32_weights_travel_as_what_computes() -> None:
    wide, mixed = (exchanges(gpus=4, sharding="fsdp", weights_dtype="fp32", autocast=a) for a in ("none", "bf16"))

    assert wide[0][2] == 2 * mixed[0][2]
    assert wide[1][2] == 2 * mixed[1][2]


def test_alone_nobody_sends() -> None:
    assert work().exchanges == ()


# ---------------------------------------------------------------- offloading


@pytest.mark.parametrize(
    ("offload", "more", "found"),
    [
        # four micro-steps, two ranks of one machine: ZeRO-3 sums gradients in each, 2 bytes, half of them on a rank;
        # updated weights come back in 2; Adam moves 30 bytes a parameter in the machine's memory
        ("optimizer", {}, (4 * 2 * TOTAL / 2, 2 * TOTAL / 2, 30 * TOTAL, 0)),
        # two gathers in each micro-step of 2 bytes, half of them from this rank
        ("parameters", {}, (8 * 2 * TOTAL / 2, 0, 0, 0)),
        # one layer's input of 2 * 64 bytes for each of 2048 tokens, down and up
        ("activations", {}, (4 * 2048 * 2 * 64 * 2, 0, 0, 0)),
        ("optimizer", {"offload_device": "nvme"}, (4 * 2 * TOTAL / 2, 2 * TOTAL / 2, 30 * TOTAL, 24 * TOTAL)),
    ],
)
def test_bytes_between_card_and_host(offload: Offload, more: dict[str, Any], found: tuple[float, ...]) -> None:
    whole = scenario(gpus=2, sharding="zero3", grad_accumulation=4)
    away = replace(whole, train=replace(whole.train, offload=(offload,), **more))

    assert offloading(away, estimate(whole).parameters, 2048) == pytest.approx(found)


def test_an_optimizer_on_the_host_moves_nothing_on_the_card() -> None:
    one = scenario(gpus=2, sharding="zero3")
    away = replace(one, train=replace(one.train, offload=("optimizer",)))

    assert work_of(one, estimate(one)).updated > 0
    assert work_of(away, estimate(one)).updated == 0


# ---------------------------------------------------------------- divided models


def test_tensor_parallel_ranks_share_the_products_and_pipelines_wait() -> None:
    model = load_model("llama-3.2-1b").model
    cluster = Cluster(gpu=card(80), gpus=8)
    whole, tensor, stages = (
        work_of(one, estimate(one))
        for one in (
            resolve(model, cluster, "full", {"autocast": "none", "grad_accumulation": 4, **more}, "plain")
            for more in ({}, {"tensor_parallel": 4}, {"pipeline_parallel": 4, "sharding": "ddp"})
        )
    )

    assert 0.25 <= tensor.products / whole.products < 0.3
    assert (whole.sequences, tensor.sequences, stages.sequences) == (8, 2, 2)
    assert (whole.bubble, tensor.bubble, stages.bubble) == (0, 0, 3 / 4)
    assert stages.products < whole.products / 2


@pytest.mark.parametrize(("sharding", "share"), [("ddp", 1), ("zero1", 4), ("fsdp", 4)])
def test_updates_are_divided_where_states_are(sharding: str, share: int) -> None:
    one = work(gpus=4, sharding=sharding)
    e = 4 if sharding == "zero1" else 2  # ZeRO steps on fp32 copies

    assert one.updated == pytest.approx((e * (20 + 3)) * TOTAL / share)


@pytest.mark.parametrize("sharding", ["zero1", "zero2", "zero3"])
def test_deepspeeds_engine_computes_in_its_own_dtypes(sharding: str) -> None:
    """It casts fp32 adapters to 16 bits and leaves autocast out: no kernel casts anything, as for the bytes."""
    shared: dict[str, Any] = {"gpus": 2, "sharding": sharding}
    asked = work("lora", adapter_dtype="fp32", autocast="bf16", **shared)
    narrow = work("lora", adapter_dtype="bf16", autocast="none", **shared)
    by_torch = work("lora", adapter_dtype="fp32", autocast="bf16", gpus=2, sharding="ddp")

    assert (asked.moved, asked.kernels, asked.wide_products) == (narrow.moved, narrow.kernels, 0)
    assert asked.moved < by_torch.moved
