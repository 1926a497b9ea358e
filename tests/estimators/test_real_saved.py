"""Saved activations against autograd: one forward pass of the real class on the CPU, every saved storage counted once.

Eager attention, no dropout, two sequences of 32 tokens. Token ids, labels, masks and rotary tables are left out on both
sides: they are in the group ``inputs``. What a CPU does otherwise than CUDA: dropout masks (none here) and attention
kernels (eager here). Everything else is the same autograd.
"""

from collections import Counter
from typing import Any

import pytest

from planner.closed_form.explain import RECOMPUTED, Item, itemise, saved_bytes
from planner.spec import Float, Scenario

pytest.importorskip("torch")
pytest.importorskip("transformers")
peft: Any = pytest.importorskip("peft")

from tests.estimators.real import Config, Kept, build, kept_by_forward, scenario, settings_of, spec_of  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 0.01
RANK = 4

SIZES: Config = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT: Config = {"n_embd": 128, "n_layer": 3, "n_head": 4, "n_positions": 64, "vocab_size": 512}
FALCON: Config = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 512}
OPT: Config = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "ffn_dim": 512,
    "vocab_size": 512,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": 128,
}
QWEN_EXPERTS: Config = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128, "head_dim": 32}
LATENT: Config = {
    "num_experts_per_tok": 2,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "moe_intermediate_size": 96,
    "n_group": 1,
    "topk_group": 1,
    "num_key_value_heads": 4,
    "first_k_dense_replace": 1,
    "q_lora_rank": None,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
}

CASES: dict[str, tuple[str, Config]] = {
    "llama": ("llama", SIZES),
    "llama-biases-tied": ("llama", {**SIZES, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", SIZES),
    "qwen3": ("qwen3", {**SIZES, "head_dim": 48}),
    "gemma2": ("gemma2", {**SIZES, "head_dim": 32, "sliding_window": 16}),
    "gemma3": ("gemma3_text", {**SIZES, "head_dim": 32, "sliding_window": 16, "sliding_window_pattern": 2}),
    "phi": ("phi", {**SIZES, "partial_rotary_factor": 0.5}),
    "phi3": ("phi3", SIZES),
    "olmo": ("olmo", SIZES),
    "olmo2": ("olmo2", SIZES),
    "cohere": ("cohere", SIZES),
    "cohere2": ("cohere2", {**SIZES, "sliding_window": 16}),
    "glm4": ("glm4", {**SIZES, "head_dim": 32}),
    "granite": ("granite", SIZES),
    "starcoder2": ("starcoder2", SIZES),
    "stablelm": ("stablelm", SIZES),
    "apertus": ("apertus", SIZES),
    "arcee": ("arcee", SIZES),
    "gpt2": ("gpt2", GPT),
    "gpt-bigcode": ("gpt_bigcode", GPT),
    "gptj": ("gptj", {**GPT, "rotary_dim": 16}),
    "gpt-neox": ("gpt_neox", {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
    "gpt-neox-sequential": (
        "gpt_neox",
        {**{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}, "use_parallel_residual": False},
    ),
    "falcon-multi-query": ("falcon", FALCON),
    "falcon-alibi": ("falcon", {**FALCON, "multi_query": False, "parallel_attn": False, "alibi": True, "bias": True}),
    "falcon-grouped": ("falcon", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "opt": ("opt", OPT),
    "opt-post-norm": ("opt", {**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 64}),
    "bloom": ("bloom", {"hidden_size": 128, "n_layer": 3, "n_head": 4, "vocab_size": 512}),
    "mixtral": ("mixtral", {**SIZES, "num_experts_per_tok": 2, "num_local_experts": 8}),
    "qwen2-moe": ("qwen2_moe", {**SIZES, **QWEN_EXPERTS, "shared_expert_intermediate_size": 192}),
    "qwen3-moe": ("qwen3_moe", {**SIZES, **QWEN_EXPERTS}),
    "olmoe": ("olmoe", {**SIZES, "num_experts": 8, "num_experts_per_tok": 2}),
    "gpt-oss": (
        "gpt_oss",
        {**SIZES, "num_experts_per_tok": 2, "num_local_experts": 8, "head_dim": 32, "sliding_window": 16},
    ),
    "deepseek-v2-lite": ("deepseek_v2", {**SIZES, **LATENT}),
    "deepseek-v3": ("deepseek_v3", {**SIZES, **LATENT, "q_lora_rank": 96}),
    "llama4": (
        "llama4_text",
        {
            **SIZES,
            "num_experts_per_tok": 1,
            "num_local_experts": 8,
            "head_dim": 32,
            "intermediate_size_mlp": 256,
            "interleave_moe_layer_step": 2,
        },
    ),
}

ADAPTED = (
    "llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt-neox", "opt", "olmo2", "cohere", "starcoder2",
    "falcon-multi-query", "mixtral", "qwen3-moe", "gpt-oss", "deepseek-v2-lite",
)  # fmt: skip


def saved_items(given: Scenario) -> list[Item]:
    """Our list, without what counts as input and without the layer that does not wait but is made again."""
    return [item for item in itemise(given) if item.group not in ("inputs", RECOMPUTED)]


def side_by_side(kept: list[Kept], items: list[Item]) -> str:
    """Both lists, for the reader of a failure."""
    real = Counter(kept).most_common()
    lines = ["real:", *(f"  {count} x {one.bytes:>8} {one.shape} {one.dtype}" for one, count in sorted(real))]
    lines += ["ours:", *(f"  {i.copies} x {i.bytes // i.copies:>8} {i.name} ({i.shape}) {i.dtype}" for i in items)]
    return "\n".join(lines)


def check(kept: list[Kept], given: Scenario) -> None:
    """Both sums within one per cent."""
    items = saved_items(given)
    real, ours = sum(one.bytes for one in kept), sum(item.bytes for item in items)

    assert ours == pytest.approx(real, rel=TOLERANCE), f"{ours / real - 1:+.2%}\n{side_by_side(kept, items)}"


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", CASES)
def test_full_fine_tuning_saves_what_autograd_saves(name: str, dtype: Float) -> None:
    model_type, sizes = CASES[name]
    settings = settings_of({**sizes, "model_type": model_type})
    kept, _ = kept_by_forward(build(settings, weights=dtype))

    check(kept, scenario(spec_of(settings), weights_dtype=dtype))


@pytest.mark.parametrize("name", CASES)
def test_checkpointed_layers_save_their_inputs_only(name: str) -> None:
    model_type, sizes = CASES[name]
    settings = settings_of({**sizes, "model_type": model_type})
    kept, _ = kept_by_forward(build(settings, checkpointing=True))

    check(kept, scenario(spec_of(settings), gradient_checkpointing=True))


@pytest.mark.parametrize("adapter", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_save_what_autograd_saves(name: str, adapter: Float) -> None:
    # The first layer's input needs gradients here, as it does under checkpointing; else its norm would save nothing.
    model_type, sizes = CASES[name]
    settings = settings_of({**sizes, "model_type": model_type})
    model = build(settings, weights="bf16")
    model.enable_input_require_grads()
    lora = peft.LoraConfig(r=RANK, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, lora, autocast_adapter_dtype=adapter == "fp32")
    kept, _ = kept_by_forward(model)

    given = scenario(spec_of(settings), method="lora", lora_rank=RANK, weights_dtype="bf16", adapter_dtype=adapter)
    check(kept, given)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_list_sums_to_the_number(checkpointing: bool) -> None:
    model_type, sizes = CASES["llama"]
    given = scenario(spec_of(settings_of({**sizes, "model_type": model_type})), gradient_checkpointing=checkpointing)

    listed = sum(item.bytes for item in itemise(given) if item.group != RECOMPUTED)

    assert listed == saved_bytes(given)
