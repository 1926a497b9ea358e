"""Whole layers by hand, per token. The Llama-3.1-8B sums were also seen in runs of the real layer on fake tensors."""

from dataclasses import replace
from typing import Any

import pytest

from planner.catalog import load_model
from planner.closed_form.recipe import key_of, recipe_of
from planner.formulas.adapters import block_parts
from planner.formulas.blocks import block_tape
from planner.formulas.tape import Size, Tape, total
from planner.hardware import load_gpu
from planner.spec import Attention, Block, Cluster, Linear, Mlp, ModelSpec, Norm, Scenario, TrainSpec
from planner.stacks import load_stack

LLAMA = load_model("llama-3.1-8b").model
CARD = load_gpu("a100-80gb")

H, NARROW, N, F, R = 4096, 1024, 32, 14336, 16
TOKENS = 2048


def tape_of(model: ModelSpec, *, kbit: Any = "none", **settings: Any) -> Tape:
    """The tape of the model's first kind of layer."""
    stack = replace(load_stack("hf").behaviour, kbit_upcast=kbit)
    train = TrainSpec(**{"method": "full", "autocast": "none", "micro_batch_size": 2, "seq_len": 1024, **settings})
    scenario = Scenario(model=model, train=train, cluster=Cluster(gpu=CARD), stack=stack)
    return block_tape(model.blocks[0], model.hidden_size, recipe_of(model, key_of(scenario), stack))


def saved(tape: Tape) -> Size:
    """What the layer makes and keeps; its input belongs to the layer before."""
    return total(tensor.size for tensor in tape.saved())


MATRICES = 3 * H + H + 2 * H + F  # inputs of q, k, v, of o, of gate and up, of down, each counted once per matrix
FROZEN_NORMS = 2 * (4 * H + 4)  # input as fp32, rsqrt
QKV, OUT, LSE = 2 * (H + 2 * NARROW), 2 * H, 4 * N
GATE_UP = 3 * 2 * F  # gate, silu(gate), up
ADAPTER_COPIES = 2 * R * ((H + H) * 2 + (H + NARROW) * 2 + (H + F) * 3)  # A and B in 16 bits

LAYERS = [
    # norms 4h + 4 + 2h and their outputs 2h; q, k, v, out; lse; gate, silu, up, product
    ({}, 2 * (8 * H + 4) + QKV + OUT + LSE + 8 * F, 0, 200_840),
    # bf16 adapters: frozen norms, their outputs 2h once for all readers, 7 outputs of A, the product
    (
        {"method": "lora", "adapter_dtype": "bf16"},
        FROZEN_NORMS + 2 * 2 * H + QKV + OUT + LSE + 7 * 2 * R + GATE_UP + 2 * F,
        0,
        184_680,
    ),
    # fp32 adapters: an fp32 copy per adapted matrix in place of the shared inputs
    (
        {"method": "lora", "adapter_dtype": "fp32"},
        FROZEN_NORMS + 4 * MATRICES + 7 * 4 * R + QKV + OUT + LSE + GATE_UP,
        0,
        295_496,
    ),
    # the same under autocast: 16-bit copies
    (
        {"method": "lora", "adapter_dtype": "fp32", "autocast": "bf16"},
        FROZEN_NORMS + 2 * MATRICES + 7 * 2 * R + QKV + OUT + LSE + GATE_UP,
        ADAPTER_COPIES,
        218_728,
    ),
    # dropout: the dropped copy and a one-byte mask per adapted matrix
    (
        {"method": "lora", "adapter_dtype": "bf16", "lora_dropout": 0.1},
        FROZEN_NORMS + 3 * MATRICES + 7 * 2 * R + QKV + OUT + LSE + GATE_UP,
        0,
        256_360,
    ),
    # q and v only, fp32: two fp32 copies of the first norm's output
    (
        {"method": "lora", "adapter_dtype": "fp32", "lora_targets": ("q_proj", "v_proj")},
        FROZEN_NORMS + 2 * 4 * H + 2 * 4 * R + QKV + OUT + LSE + GATE_UP,
        0,
        172_296,
    ),
    # 4 bit with bf16 adapters keeps what the dense layer keeps
    (
        {"method": "qlora", "adapter_dtype": "bf16"},
        FROZEN_NORMS + 2 * 2 * H + QKV + OUT + LSE + 7 * 2 * R + GATE_UP + 2 * F,
        0,
        184_680,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "per_token", "fixed", "seen"), LAYERS)
def test_a_llama_layer_with_flash_attention(settings: dict[str, Any], per_token: int, fixed: int, seen: int) -> None:
    found = saved(tape_of(LLAMA, **settings))

    assert found == Size(token=per_token, fixed=fixed)
    assert per_token + fixed / TOKENS == seen


def test_after_kbit_preparation_the_stream_and_the_mlp_are_fp32() -> None:
    # fp32 norms on an fp32 stream: rsqrt 4 and no copy of the first input; the second norm's input, the attention
    # residual, is made here: 4h. Norm outputs 4h each, shared by all adapters. q, k, v and out as 16-bit kernel inputs,
    # o's fp32 input 4h; gate, silu, up, product in fp32: 16f. Seven fp32 outputs of A.
    found = saved(tape_of(LLAMA, kbit="all", method="qlora", adapter_dtype="fp32"))

    assert found.token == 2 * 4 + 4 * H + 2 * 4 * H + QKV + OUT + LSE + 4 * H + 7 * 4 * R + 16 * F == 315_976


def test_eager_attention_keeps_scores_twice_and_repeated_heads() -> None:
    # probabilities in fp32 and 16 bits per head: 6n per score; key and value repeated to the query's heads
    found = saved(tape_of(LLAMA, attention="eager"))

    assert found.score == 6 * N
    assert found.token == 2 * (8 * H + 4) + 3 * 2 * H + OUT + 8 * F
    assert found.token + found.score * 1024 == 409_608  # as seen at 1,024 tokens


def test_sdpa_keeps_what_flash_keeps() -> None:
    assert saved(tape_of(LLAMA, attention="sdpa")) == saved(tape_of(LLAMA, attention="flash"))


def test_rotary_embedding_saves_no_tensor_of_the_layer() -> None:
    attention = replace(LLAMA.blocks[0].attention, rope="none")
    unrotated = replace(LLAMA, blocks=(replace(LLAMA.blocks[0], attention=attention),))

    assert saved(tape_of(unrotated)) == saved(tape_of(LLAMA))


def test_fused_kernels_save_the_inputs_of_norms_and_no_activation() -> None:
    # RMSNorm one statistic 4 each, beside the layer's input and the residual 2h; outputs 2h each; gate, up, product
    found = saved(tape_of(LLAMA, kernels="fused"))

    assert found == Size(token=2 * 4 + 2 * H + 2 * 2 * H + QKV + OUT + LSE + 6 * F)


# ---------------------------------------------------------------- Korthikanti et al. 2022

GPT_H, GPT_N = 768, 12


def gpt_block(*, dropout: float) -> Block:
    """Layer norms, separate projections, GELU MLP of four times the width."""
    return Block(
        attention=Attention(
            num_attention_heads=GPT_N,
            num_key_value_heads=GPT_N,
            head_dim=GPT_H // GPT_N,
            inputs=tuple(Linear(name, GPT_H, GPT_H) for name in ("q", "k", "v")),
            output=Linear("o", GPT_H, GPT_H),
            rope="none",
            dropout=dropout,
        ),
        mlp=Mlp(
            intermediate_size=4 * GPT_H,
            activation="gelu",
            gated=False,
            inputs=(Linear("up", GPT_H, 4 * GPT_H),),
            output=Linear("down", 4 * GPT_H, GPT_H),
        ),
        norms=(Norm("first", GPT_H, "layer", bias=True), Norm("second", GPT_H, "layer", bias=True)),
        residual_dropout=dropout,
    )


def gpt(*, dropout: float) -> ModelSpec:
    return replace(
        LLAMA,
        name="gpt",
        hidden_size=GPT_H,
        blocks=(gpt_block(dropout=dropout),),
        layout=(0,),
        lm_head=Linear("lm_head", GPT_H, 1000),
        final_norm=None,
    )


def test_a_gpt_layer_as_in_the_paper() -> None:
    # arXiv:2205.05198 equation 1: s*b*h*(34 + 5*a*s/h). Of its 34: attention 11 (q, k input 2, q and k 4, v 2, the
    # projection's input 2, a mask 1), MLP 19 (2, 8, 8, 1), layer norms 4. Of its 5 per score: softmax output 2, mask 1,
    # dropped 2. Eager transformers keep the softmax in fp32: 4, so 7. Statistics of two norms: 2 * 8.
    tape = tape_of(gpt(dropout=0.1), attention="eager")
    found = total(tensor.size for tensor in tape.saved(own_source=True))

    assert found.token == 34 * GPT_H + 2 * 8
    assert found.score == 7 * GPT_N


def test_a_gpt_layer_without_dropout_has_no_masks() -> None:
    # 34 - 2 masks; per score 4 + 2: the 16-bit probabilities themselves are kept
    tape = tape_of(gpt(dropout=0.0), attention="eager")
    found = total(tensor.size for tensor in tape.saved(own_source=True))

    assert found.token == 32 * GPT_H + 2 * 8
    assert found.score == 6 * GPT_N


def test_flash_attention_keeps_no_scores() -> None:
    # arXiv:2307.08691: queries, keys, values, output and one fp32 number per row and head
    tape = tape_of(gpt(dropout=0.0), attention="flash")
    found = total(tensor.size for tensor in tape.saved(own_source=True))

    assert found == Size(token=32 * GPT_H + 2 * 8 + 4 * GPT_N)


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-8b", "gemma-2-9b", "gpt2", "pythia-6.9b", "opt-6.7b"])
def test_a_trained_layer_makes_a_gradient_for_every_parameter(name: str) -> None:
    model = load_model(name).model
    block = model.blocks[0]
    params = sum(part.params for part in block_parts(block))

    assert tape_of(model).weight_grad() == 2 * params


def test_a_trained_layer_of_experts_makes_a_gradient_for_every_parameter() -> None:
    for name in ("mixtral-8x7b", "qwen3-30b-a3b", "gpt-oss-20b", "deepseek-v2-lite"):
        model = load_model(name).model
        block = model.blocks[0]
        params = sum(part.params for part in block_parts(block))

        # sinks, and the biases of routers and experts, may be missing: less than one part in a hundred
        assert tape_of(model).weight_grad() == pytest.approx(2 * params, rel=0.01), name


def test_adapters_make_gradients_of_their_own_size() -> None:
    # seven pairs of rank 16 in fp32
    entries = R * ((H + H) * 2 + (H + NARROW) * 2 + (H + F) * 3)

    assert tape_of(LLAMA, method="lora", adapter_dtype="fp32").weight_grad() == 4 * entries
