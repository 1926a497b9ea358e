"""Rules that traces of the libraries have taught: each number multiplied out by hand."""

from dataclasses import replace

import pytest

from planner.catalog import load_model
from planner.closed_form import estimate
from planner.closed_form.explain import itemise, saved_bytes
from planner.hardware import load_gpu
from planner.result import Memory
from planner.spec import Cluster, Scenario
from planner.stacks import resolve

TOKENS = 2048
CARD = Cluster(gpu=load_gpu("a100-80gb-sxm"))


def scenario(model: str, method: str, stack: str = "trl", **settings: object) -> Scenario:
    return resolve(load_model(model).model, CARD, method, {"seq_len": TOKENS, **settings}, stack)  # type: ignore[arg-type]


def with_reentry(given: Scenario) -> Scenario:
    return replace(given, stack=replace(given.stack, reentrant_checkpoint=True))


def loss_phase(given: Scenario) -> Memory:
    return estimate(given).phases["loss"]


# ---------------------------------------------------------------- Apertus's activation


def test_one_kernel_of_xielu_saves_its_input_alone() -> None:
    # single operations save x, alpha_p * x and expm1 in bf16, and a mask of one byte, for 21504 entries; one kernel x
    def kept(stack: str) -> int:
        given = scenario("apertus-8b", "lora", stack, gradient_checkpointing=False, autocast="none", attention="flash")
        return saved_bytes(given)

    assert kept("plain") - kept("plain,xielu=0.1") == 32 * TOKENS * 21504 * (2 * 2 + 1)


# ---------------------------------------------------------------- 8-bit matrices under checkpoints


def test_a_checkpoint_does_not_free_what_8_bit_matrices_read() -> None:
    # Llama 3.2 1B: inputs of attention, of its output, of the MLP (2048 each) and of its last matrix (8192), 16 bit,
    # 16 layers: 16 * 2048 tokens * (3*2048 + 8192) * 2 = 939,524,096
    given = scenario("llama-3.2-1b", "qlora", "hf", quant="int8", attention="flash")
    sixteen = replace(given, stack=replace(given.stack, kbit_upcast="none"))
    expected = 16 * TOKENS * (3 * 2048 + 8192) * 2

    assert loss_phase(sixteen).activations - loss_phase(with_reentry(sixteen)).activations == expected
    # PEFT's preparation makes norms fp32, whose outputs are two of the three 2048, and the MLP after them
    assert loss_phase(given).activations - loss_phase(with_reentry(given)).activations > expected


def test_a_checkpoint_frees_what_4_bit_matrices_read() -> None:
    given = scenario("llama-3.2-1b", "qlora", attention="flash")

    assert loss_phase(given) == loss_phase(with_reentry(given))


def test_what_lasts_is_itemised() -> None:
    given = scenario("llama-3.2-1b", "qlora", "hf", quant="int8", attention="flash")
    items = [item for item in itemise(given) if item.group == "kept beyond checkpoints"]

    assert len(items) == 4
    assert all(item.copies == 16 for item in items)
    assert sum(item.bytes for item in itemise(given) if "recomputed" not in item.group) == saved_bytes(given)


# ---------------------------------------------------------------- attention


def test_sdpa_of_falcon_keeps_every_score() -> None:
    # Falcon-7B tells sdpa nothing of its one key head: math path, fp32 probabilities of 71 heads,
    # 32 layers * 71 * 2048^2 * 4 bytes = 38,117,834,752 bytes that flash does not keep
    kept = {
        name: estimate(
            scenario("falcon-7b", "lora", "hf", attention=name, gradient_checkpointing=False)
        ).phases["loss"].activations
        for name in ("flash", "sdpa")
    }  # fmt: skip

    assert kept["sdpa"] - kept["flash"] > 32 * 71 * TOKENS**2 * 4


def test_sdpa_of_falcon_40b_repeats_its_heads_first() -> None:
    sdpa, flash = (estimate(scenario("falcon-40b", "lora", "hf", attention=name)) for name in ("sdpa", "flash"))

    assert sdpa.phases == flash.phases


@pytest.mark.parametrize(("autocast", "e"), [("bf16", 2), ("none", 4)])
def test_upcast_queries_are_16_bit_in_the_product_under_autocast(autocast: str, e: int) -> None:
    # GPT-J: query and key become fp32, and a product under autocast makes them 16 bit again: 2 * 4096 per token
    given = scenario(
        "gpt-j-6b", "lora", "hf", attention="eager", gradient_checkpointing=False, autocast=autocast, micro_batch_size=2
    )
    saved = [item for item in itemise(given) if item.name.startswith(("query", "key")) and item.group == "layers"]

    assert [item.bytes for item in saved] == [28 * 2 * TOKENS * 4096 * e] * 2


def test_fp32_softmax_of_16_bit_scores_copies_them() -> None:
    # One head's scores at once: 16-bit, the copy and the result in fp32: 32 * 2048^2 * (2 + 4 + 4) bytes at least
    given = scenario("llama-3.2-1b", "lora", "hf", attention="eager")
    forward = estimate(given).phases["forward"]

    assert forward.activations + forward.temporaries > 32 * TOKENS**2 * 10


def test_bloom_hands_its_probabilities_to_the_loop_over_layers() -> None:
    # BLOOM-560m, 16 heads, 16-bit scores: the layer before's probabilities, scores without and with the mask, the fp32
    # copy and the fp32 result at once: 16 * 2048^2 * (2 + 2 + 2 + 4 + 4) = 939,524,096
    forward = estimate(scenario("bloom-560m", "lora", "hf", attention="eager")).phases["forward"]
    given = 16 * TOKENS**2 * (2 + 2 + 2 + 4 + 4)

    assert given < forward.activations + forward.temporaries < 1.4 * given


def test_gpt_oss_names_the_dtype_of_its_softmax() -> None:
    # ``softmax(..., dtype=combined_logits.dtype)``: 16 bit under autocast, one tensor: 24 layers, 64 heads
    given = scenario("gpt-oss-20b", "lora", "hf", attention="eager", gradient_checkpointing=False)
    saved = [item for item in itemise(given) if item.name.startswith("probabilities")]

    assert sum(item.bytes for item in saved) == 24 * 64 * TOKENS**2 * 2


def test_matrices_that_bitsandbytes_passes_over_are_cast_where_preparation_made_them_fp32() -> None:
    # Falcon-7B: its own subclass of nn.Linear stays unquantised. After PEFT's preparation every product saves a 16-bit
    # copy of the weight: 4544 * (4672 + 4544 + 18176 + 18176) entries in 32 layers
    given = scenario("falcon-7b", "qlora", "hf", gradient_checkpointing=False)
    copies = [item for item in itemise(given) if item.group == "layers" and item.name.endswith("weight as 16-bit")]
    base = [item.bytes for item in copies if "lora" not in item.name]

    assert sum(base) == 32 * 4544 * (4672 + 4544 + 2 * 18176) * 2


# ---------------------------------------------------------------- experts


@pytest.mark.parametrize(("stack", "e"), [("hf", 4), ("trl", 2)])
def test_stacked_experts_with_adapters_have_the_dtype_of_the_stored_ones(stack: str, e: int) -> None:
    # Mixtral 8x7B: PEFT's k-bit preparation makes 3-D experts fp32, and the copy with its adapter is fp32 then:
    # 32 layers * 8 experts * 28672 * 4096 entries; TRL prepares nothing
    given = scenario("mixtral-8x7b", "qlora", stack, gradient_checkpointing=False)
    merged = [item for item in itemise(given) if item.name == "mlp.experts.gate_up_proj with adapter"]

    assert [item.bytes for item in merged] == [32 * 8 * 28672 * 4096 * e]


def test_batched_products_of_fp32_experts_save_16_bit_copies_of_them() -> None:
    # Llama 4 Scout after PEFT's preparation: 48 layers * 16 experts * 5120 * (2 + 1) * 8192 entries; TRL: no copies
    targets = {"lora_targets": ("q_proj", "k_proj", "v_proj", "o_proj"), "gradient_checkpointing": False}
    names = ("feed_forward.experts.gate_up_proj as 16-bit", "feed_forward.experts.down_proj as 16-bit")
    prepared, plain = (itemise(scenario("llama-4-scout", "qlora", stack, **targets)) for stack in ("hf", "trl"))

    assert sum(item.bytes for item in prepared if item.name in names) == 48 * 16 * 5120 * 3 * 8192 * 2
    assert not [item for item in plain if item.name in names]


# ---------------------------------------------------------------- activation functions


@pytest.mark.parametrize(("autocast", "per_channel"), [("bf16", 2 + 4 + 4 + 1), ("none", 2 + 2 + 2 + 1)])
def test_xielu_keeps_fp32_factors_under_autocast(autocast: str, per_channel: int) -> None:
    # Apertus-8B: x (16 bit), alpha_p * x and expm1 (fp32 under autocast), mask (1 byte); 21504 channels, 32 layers
    given = scenario("apertus-8b", "lora", "hf", gradient_checkpointing=False, autocast=autocast)
    names = ("mlp.up_proj output", "alpha_p * x", "expm1", "x > 0")
    saved = [item.bytes for item in itemise(given) if item.name in names and item.group == "layers"]

    assert len(saved) == 4
    assert sum(saved) == 32 * TOKENS * 21504 * per_channel


# ---------------------------------------------------------------- accumulation under FSDP


@pytest.mark.parametrize(("stack", "entry", "ranks"), [("trl", 2, 1), ("hf", 2, 1), ("plain", 2, 4)])
def test_trainers_hold_whole_gradients_between_micro_steps(stack: str, entry: int, ranks: int) -> None:
    # Llama 3.2 1B: 1,235,814,400 parameters; no_sync keeps them whole on every rank, a bare loop reduces each time
    four = replace(CARD, gpus=4)
    settings = {"seq_len": TOKENS, "sharding": "fsdp", "grad_accumulation": 2}
    given = resolve(load_model("llama-3.2-1b").model, four, "full", settings, stack)

    assert estimate(given).phases["forward"].gradients == entry * 1_235_814_400 // ranks
