"""Parameter counts: parts by hand, models by what PEFT and the papers print, adapters by their rules."""

from typing import Any

import pytest

from planner.catalog_files import catalogue_model
from planner.errors import UsageError
from planner.formulas.counts import (
    attention_params,
    experts_params,
    latent_attention_params,
    linear_params,
    lora_experts_params,
    lora_linear_params,
    mlp_params,
)
from planner.formulas.params import (
    active_params,
    adapters,
    block_params,
    expert_params,
    lora_params,
    model_params,
    outer_params,
    quantizable_params,
)
from planner.spec import ModelSpec

ALL_LINEAR = ("all-linear",)
QV = ("q_proj", "v_proj")

ATTENTION = [  # h, n, k, d, biases -> entries
    ({"h": 4096, "n": 32, "k": 32, "d": 128}, 4 * 4096 * 4096),  # multi-head: four square matrices
    ({"h": 4096, "n": 32, "k": 8, "d": 128}, 2 * 4096 * 4096 + 2 * 4096 * 1024),  # grouped: k and v a quarter as wide
    ({"h": 4544, "n": 71, "k": 1, "d": 64}, 2 * 4544 * 4544 + 2 * 4544 * 64),  # multi-query (Falcon-7B)
    ({"h": 2048, "n": 8, "k": 1, "d": 256, "qkv_bias": True}, 2 * 2048 * 2048 + 2 * 2048 * 256 + 2048 + 512),
    ({"h": 8, "n": 2, "k": 2, "d": 4, "qkv_bias": True, "out_bias": True}, 4 * 64 + 24 + 8),
]


@pytest.mark.parametrize(("sizes", "expected"), ATTENTION)
def test_attention(sizes: dict[str, Any], expected: int) -> None:
    assert attention_params(**sizes) == expected


def test_feed_forward_with_and_without_gate_and_bias() -> None:
    assert mlp_params(h=4096, f=11008) == 3 * 4096 * 11008
    assert mlp_params(h=4096, f=16384, gated=False) == 2 * 4096 * 16384
    assert mlp_params(h=8, f=32, bias=True) == 3 * 8 * 32 + 2 * 32 + 8


def test_latent_attention_of_deepseek_v2_lite_has_no_compressed_query() -> None:
    # q 3072 x 2048, kv_a 576 x 2048, kv_b 4096 x 512, out 2048 x 2048, norm 512
    expected = 3072 * 2048 + 576 * 2048 + 4096 * 512 + 2048 * 2048 + 512

    assert (
        latent_attention_params(h=2048, n=16, q_rank=None, kv_rank=512, d_nope=128, d_rope=64, d_value=128) == expected
    )


BY_HAND = [
    ("llama-3.1-8b", 128256 * 4096 * 2 + 4096 + 32 * (41_943_040 + 176_160_768 + 2 * 4096)),
    ("gpt2", 50257 * 768 + 1024 * 768 + 2 * 768 + 12 * (768 * 2304 + 2304 + 768 * 768 + 768 + 4_722_432 + 4 * 768)),
    ("mixtral-8x7b", 32000 * 4096 * 2 + 4096 + 32 * (41_943_040 + 1_409_318_912 + 2 * 4096)),
]


@pytest.mark.parametrize(("model_id", "expected"), BY_HAND)
def test_whole_models_by_hand(model_id: str, expected: int) -> None:
    assert model_params(catalogue_model(model_id)) == expected


@pytest.mark.parametrize("model_id", ["llama-3.1-8b", "deepseek-v2-lite", "qwen2.5-0.5b", "opt-350m", "bloom-560m"])
def test_a_model_is_its_layers_and_what_is_outside(model_id: str) -> None:
    model = catalogue_model(model_id)

    layers = sum(block_params(model.blocks[kind]) for kind in model.layout)

    assert model_params(model) == layers + outer_params(model)


def test_formulas_of_parts_add_up_to_the_blocks_of_deepseek_v3() -> None:
    model = catalogue_model("deepseek-v3")
    latent = latent_attention_params(h=7168, n=128, q_rank=1536, kv_rank=512, d_nope=128, d_rope=64, d_value=128)
    dense, sparse = model.blocks
    norms = 2 * 7168

    assert block_params(dense) == latent + mlp_params(h=7168, f=18432) + norms
    assert block_params(sparse) == latent + experts_params(h=7168, f=2048, E=256) + mlp_params(h=7168, f=2048) + norms
    assert model.layout == (0,) * 3 + (1,) * 58


def test_a_tied_head_is_counted_once() -> None:
    tied = catalogue_model("qwen2.5-0.5b")

    assert tied.tie_word_embeddings
    assert outer_params(tied) == 151936 * 896 + 896


TRAINABLE = [  # printed by the named source
    ("llama-2-7b", QV, 8, 4_194_304),  # LitGPT's tables
    ("llama-2-13b", QV, 8, 6_553_600),  # LitGPT's tables
    ("phi-1.5", QV, 8, 1_572_864),  # LitGPT's tables
    ("llama-3.2-3b", QV, 32, 9_175_040),  # PEFT method_comparison, MetaMathQA
    ("llama-3.1-8b", ALL_LINEAR, 16, 41_943_040),  # Unsloth and Axolotl logs
    ("mistral-7b-v0.1", ALL_LINEAR, 16, 41_943_040),  # the same shapes
    ("llama-2-7b", ALL_LINEAR, 64, 159_907_840),  # QLoRA's guanaco-7b
    ("gpt2", ("c_attn",), 8, 294_912),  # PEFT's quick tour
    ("bloom-560m", ("query_key_value",), 8, 786_432),  # PEFT's prompt-tuning notebooks
    ("opt-6.7b", QV, 16, 8_388_608),  # PEFT's int8 notebook: "trainable params: 8388608 || all params: 6666862592"
]


@pytest.mark.parametrize(("model_id", "targets", "rank", "printed"), TRAINABLE)
def test_trainable_parameters_as_published(model_id: str, targets: tuple[str, ...], rank: int, printed: int) -> None:
    assert lora_params(catalogue_model(model_id), targets, rank) == printed


def test_peft_prints_base_and_adapters_together() -> None:
    model = catalogue_model("opt-6.7b")

    assert model_params(model) + lora_params(model, QV, 16) == 6_666_862_592


PER_RANK = [  # tinker_cookbook/hyperparam_utils.py, _LORA_PARAMS_PER_RANK_BY_COMPONENT, attention + mlp, in millions
    ("llama-3.2-1b", 0.70),
    ("llama-3.2-3b", 1.52),
    ("llama-3.1-8b", 2.62),
    ("llama-3.1-70b", 12.94),
    ("qwen3-8b", 2.73),
    ("qwen3-32b", 8.39),
]


@pytest.mark.parametrize(("model_id", "millions"), PER_RANK)
def test_parameters_per_unit_of_rank(model_id: str, millions: float) -> None:
    assert lora_params(catalogue_model(model_id), ALL_LINEAR, 1) / 1e6 == pytest.approx(millions, abs=0.006)


def test_saved_modules_are_whole_copies() -> None:
    model = catalogue_model("llama-3.1-8b")
    table = 128256 * 4096

    assert lora_params(model, QV, 8, ("embed_tokens", "lm_head")) == lora_params(model, QV, 8) + 2 * table
    assert adapters(model, QV, ("embed_tokens",)).saved == {"embed_tokens"}


def test_a_saved_module_carries_no_adapter() -> None:
    model = catalogue_model("llama-3.1-8b")

    both = adapters(model, ("q_proj", "v_proj"), ("v_proj",))

    assert both.modules == {"self_attn.q_proj"}
    assert both.saved_params == 32 * 4096 * 1024


def test_embeddings_and_head_can_be_targets() -> None:
    model = catalogue_model("llama-3.1-8b")

    assert lora_params(model, ("embed_tokens",), 8) == 8 * (128256 + 4096)
    assert lora_params(model, ("lm_head",), 8) == 8 * (128256 + 4096)


UNKNOWN_TARGETS = [
    (("q_porj",), r"lora target 'q_porj' is no module of llama-3.1-8b; did you mean q_proj"),
    (("c_attn", "q_proj"), r"'c_attn' is no module .*it has: all-linear, down_proj"),
    (("all-linear", "lm_head"), r"name it alone"),
    (("layers.0.self_attn.q_proj",), r"is no module"),
]


@pytest.mark.parametrize(("targets", "message"), UNKNOWN_TARGETS)
def test_a_target_that_the_model_lacks_is_refused(targets: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        lora_params(catalogue_model("llama-3.1-8b"), targets, 8)


def test_a_module_to_save_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match=r"module to save 'wte' is no module of llama-3.1-8b"):
        lora_params(catalogue_model("llama-3.1-8b"), QV, 8, ("wte",))


# ---------------------------------------------------------------- experts


def mixtral() -> ModelSpec:
    return catalogue_model("mixtral-8x7b")


def test_stacked_experts_stay_in_16_bits() -> None:
    # transformers 5: only the four projections of each layer are nn.Linear; 4.x: experts and router too
    attention = 32 * 41_943_040

    assert quantizable_params(mixtral()) == attention
    assert quantizable_params(mixtral(), fused_experts=False) == attention + 32 * 1_409_318_912


def test_dense_models_are_quantised_whole_but_for_the_embeddings() -> None:
    model = catalogue_model("llama-3.1-8b")

    assert quantizable_params(model) == model_params(model) - 2 * 128256 * 4096 - 65 * 4096


def test_falcon_is_not_quantised_by_transformers_5() -> None:
    # FalconLinear is a subclass of nn.Linear; replace_with_bnb_linear asks for the type itself
    model = catalogue_model("falcon-7b")

    assert quantizable_params(model) == 0
    assert quantizable_params(model, fused_experts=False) == 32 * (4672 + 4544 + 2 * 18176) * 4544


def test_all_linear_reaches_the_experts_as_parameters() -> None:
    found = adapters(mixtral(), ALL_LINEAR)
    attention = 32 * (
        2 * lora_linear_params(d_in=4096, d_out=4096, r=1) + 2 * lora_linear_params(d_in=4096, d_out=1024, r=1)
    )
    router = 32 * lora_linear_params(d_in=4096, d_out=8, r=1)

    assert found.parameters == {"mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"}
    assert found.per_rank == attention + router + 32 * lora_experts_params(h=4096, f=14336, E=8, r=1)


def test_all_linear_with_separate_experts_adapts_each_matrix() -> None:
    fused, separate = (adapters(mixtral(), ALL_LINEAR, fused_experts=fused) for fused in (True, False))

    # gate and up apart: 2*(h + f) per unit of rank instead of 2*(h + 2f) on twice the rank
    assert fused.per_rank - separate.per_rank == 32 * 8 * (2 * (4096 + 2 * 14336) - 2 * (4096 + 14336))
    assert separate.parameters == frozenset()
    assert "mlp.experts.w1" in separate.modules


def test_experts_that_were_never_modules_are_not_reached() -> None:
    found = adapters(catalogue_model("gpt-oss-20b"), ALL_LINEAR)

    assert found.parameters == frozenset()
    assert found.modules == {f"self_attn.{name}_proj" for name in "qkvo"}


def test_active_parameters_leave_out_idle_experts() -> None:
    # Mixtral: 2 of 8 experts act
    idle = expert_params(mixtral()) * 6 // 8

    assert active_params(mixtral()) == model_params(mixtral()) - idle
    assert active_params(catalogue_model("llama-3.1-8b")) == model_params(catalogue_model("llama-3.1-8b"))


def test_linear_params_counts_its_bias_once() -> None:
    assert linear_params(d_in=10, d_out=5, bias=True) - linear_params(d_in=10, d_out=5) == 5
