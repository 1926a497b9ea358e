"""Tiny configs of every family, in the fields of ``config.json``, each with the switches that change its modules."""

from typing import Any

Config = dict[str, Any]

SIZES: Config = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 160,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT: Config = {
    "n_embd": 64,
    "n_layer": 4,
    "n_head": 8,
    "n_positions": 128,
    "vocab_size": 160,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FALCON: Config = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "vocab_size": 160,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OPT: Config = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "ffn_dim": 96,
    "vocab_size": 160,
    "max_position_embeddings": 128,
    "word_embed_proj_dim": 64,
}
EXPERTS: Config = {"num_experts_per_tok": 2, "num_local_experts": 6}
ROUTED: Config = {
    "num_experts_per_tok": 2,
    "n_routed_experts": 6,
    "n_shared_experts": 2,
    "moe_intermediate_size": 24,
    "n_group": 1,
    "topk_group": 1,
}
LATENT: Config = {
    **ROUTED,
    "num_key_value_heads": 8,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 12,
}
QWEN_EXPERTS: Config = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
BIASED: Config = {"attention_bias": True, "mlp_bias": True}
TIED: Config = {"tie_word_embeddings": True}

SLIDING = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]

CASES: list[tuple[str, Config]] = [
    ("llama", {}),
    ("llama", {**BIASED, **TIED, "head_dim": 16}),
    ("mistral", {"sliding_window": 32}),
    ("ministral3", {"head_dim": 16}),
    ("qwen2", {}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 2, **TIED}),
    ("qwen3", {"head_dim": 16, "attention_bias": True}),
    ("gemma", {"head_dim": 16}),
    ("gemma2", {"head_dim": 16, "sliding_window": 32}),
    ("gemma3_text", {"head_dim": 16, "sliding_window": 32, "sliding_window_pattern": 2}),
    ("phi", {}),
    ("phi", {"qk_layernorm": True, "partial_rotary_factor": 0.5}),
    ("phi3", {"partial_rotary_factor": 0.75, "head_dim": 16}),
    ("smollm3", {**BIASED}),
    ("olmo", {"attention_bias": True}),
    ("olmo2", {}),
    ("olmo3", {"sliding_window": 32, "layer_types": SLIDING}),
    ("glm", {"head_dim": 16, "attention_bias": True}),
    ("glm4", {"head_dim": 16, "attention_bias": False}),
    ("starcoder2", {}),
    ("starcoder2", {"use_bias": False}),
    ("granite", {**BIASED}),
    ("cohere", {}),
    ("cohere", {"use_qk_norm": True, "attention_bias": True}),
    ("cohere2", {"sliding_window": 32}),
    ("stablelm", {"use_qkv_bias": True}),
    ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True}),
    ("seed_oss", {"head_dim": 16}),
    ("seed_oss", {"head_dim": 16, "attention_out_bias": True, "mlp_bias": True}),
    ("apertus", {"attention_bias": True}),
    ("arcee", {}),
    ("arcee", {"attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    ("exaone4", {"sliding_window": 32, "head_dim": 16}),
    ("ernie4_5", {"use_bias": True, "head_dim": 16}),
    ("gpt2", {**GPT}),
    ("gpt2", {**GPT, "n_inner": 96}),
    ("gpt_bigcode", {**GPT}),
    ("gpt_bigcode", {**GPT, "multi_query": False}),
    ("gptj", {**GPT, "rotary_dim": 4}),
    ("gpt_neox", {}),
    ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
    ("falcon", {**FALCON}),
    ("falcon", {**FALCON, "multi_query": False, "parallel_attn": False, "alibi": True, "bias": True}),
    ("falcon", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    ("falcon", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1}),
    ("opt", {**OPT}),
    ("opt", {**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 32}),
    ("opt", {**OPT, "enable_bias": False, "layer_norm_elementwise_affine": False}),
    ("bloom", {"hidden_size": 64, "n_layer": 3, "n_head": 8, "vocab_size": 160}),
    ("mpt", {"d_model": 64, "n_layers": 3, "n_heads": 8, "vocab_size": 160, "max_seq_len": 128}),
    ("mixtral", {**EXPERTS}),
    ("qwen2_moe", {**QWEN_EXPERTS, "shared_expert_intermediate_size": 40}),
    ("qwen2_moe", {**QWEN_EXPERTS, "shared_expert_intermediate_size": 40, "mlp_only_layers": [1], "qkv_bias": False}),
    ("qwen3_moe", {**QWEN_EXPERTS, "head_dim": 16, "decoder_sparse_step": 2}),
    ("olmoe", {"num_experts": 6, "num_experts_per_tok": 2}),
    ("gpt_oss", {**EXPERTS, "head_dim": 16, "sliding_window": 32}),
    ("granitemoe", {**EXPERTS}),
    ("phimoe", {**EXPERTS, "attention_bias": True, "lm_head_bias": True}),
    ("glm4_moe", {**ROUTED, "use_qk_norm": True, "head_dim": 16}),
    ("minimax_m2", {**EXPERTS, "head_dim": 16, "rotary_dim": 8}),
    (
        "ernie4_5_moe",
        {"moe_num_experts": 6, "moe_k": 2, "moe_intermediate_size": 24, "moe_num_shared_experts": 2,
         "moe_layer_start_index": 1, "moe_layer_end_index": 2, "use_bias": True},
    ),
    ("llama4_text", {**EXPERTS, "head_dim": 16, "intermediate_size_mlp": 80, "interleave_moe_layer_step": 2}),
    ("deepseek_v2", {**LATENT, "first_k_dense_replace": 1}),
    ("deepseek_v2", {**LATENT, "q_lora_rank": None, "attention_bias": True}),
    ("deepseek_v3", {**LATENT, "first_k_dense_replace": 2, "attention_bias": True}),
    ("glm4_moe_lite", {**LATENT}),
]  # fmt: skip
"""Model type and what differs from ``SIZES``; families with sizes of other names bring all of theirs."""


LACKING = {"gpt_neox": ("num_key_value_heads",), "bloom": tuple(SIZES)}
"""Fields that a family does not have."""


def tiny(model_type: str, changes: Config) -> Config:
    """A whole config; GPT's families do not take Llama's size fields."""
    own = any(name in changes for name in ("n_embd", "n_layer", "d_model", "ffn_dim")) or model_type == "falcon"
    sizes = {} if own else {name: size for name, size in SIZES.items() if name not in LACKING.get(model_type, ())}
    return {**sizes, **changes, "model_type": model_type}


def title(case: tuple[str, Config]) -> str:
    """A short id for pytest."""
    model_type, changes = case
    told = [f"{key}={value}" for key, value in changes.items() if isinstance(value, bool)]
    return "-".join([model_type, *told])
