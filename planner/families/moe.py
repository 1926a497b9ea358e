"""Mixture-of-experts decoders with plain attention. Sources: ``transformers/models/<type>/`` of transformers 5.23."""

from planner.families import layers
from planner.families.decoder import decoder
from planner.families.fields import REQUIRED, Family, Fields
from planner.families.layers import everywhere, sparse_layers
from planner.families.style import DECODER, Mixture, Style, uniform

MTP = frozenset({"num_nextn_predict_layers", "num_mtp_modules", "mtp_transformer_layers", "use_mtp"})
"""Extra layers that predict further tokens; transformers does not load them."""

ROUTED = {"num_experts_per_tok": REQUIRED}


def wide_shared(fields: Fields) -> int | None:
    """All shared experts side by side in one feed-forward part (DeepSeek, GLM)."""
    count = fields.optional_size("n_shared_experts", least=0)
    return count * fields.size("moe_intermediate_size") if count else None


def ernie_shared(fields: Fields) -> int | None:
    """As ``wide_shared``, with ERNIE's field names."""
    count = fields.optional_size("moe_num_shared_experts", least=0)
    return count * fields.size("moe_intermediate_size") if count else None


FAMILIES = (
    Family(
        model_type="mixtral",
        fields={**DECODER, **ROUTED, "num_key_value_heads": 8, "sliding_window": None, "num_local_experts": REQUIRED},
        renamed={"num_local_experts": ("num_experts",)},
        build=decoder(
            Style(layers=sparse_layers(layers.windowed, everywhere)),
            Mixture(experts="num_local_experts", width="intermediate_size", linear_names=("w1", "w3", "w2")),
        ),
    ),
    Family(
        model_type="qwen2_moe",
        fields={**DECODER, **ROUTED, "num_key_value_heads": 16, "qkv_bias": True, "num_experts": REQUIRED,
                "moe_intermediate_size": REQUIRED, "shared_expert_intermediate_size": REQUIRED,
                "decoder_sparse_step": 1, "mlp_only_layers": None, "use_sliding_window": False,
                "sliding_window": 4096, "max_window_layers": 28, "layer_types": None},
        only={"use_sliding_window": (False, None)},
        build=decoder(
            Style(qkv_bias="qkv_bias", layers=sparse_layers(uniform, layers.by_step)),
            Mixture(
                experts="num_experts", shared="shared_expert", shared_gate="shared_expert_gate",
                shared_width=lambda fields: fields.size("shared_expert_intermediate_size"),
            ),
        ),
    ),
    Family(
        model_type="qwen3_moe",
        fields={**DECODER, **ROUTED, "num_key_value_heads": 4, "attention_bias": False, "num_experts": REQUIRED,
                "moe_intermediate_size": REQUIRED, "decoder_sparse_step": 1, "mlp_only_layers": None,
                "use_sliding_window": False, "sliding_window": 4096},
        renamed={"num_experts": ("num_local_experts",)},
        ignored=frozenset({"max_window_layers"}),
        build=decoder(
            Style(
                qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="head",
                layers=sparse_layers(layers.switched, layers.by_step),
            ),
            Mixture(experts="num_experts"),
        ),
    ),
    Family(
        model_type="olmoe",
        fields={**DECODER, **ROUTED, "attention_bias": False, "num_experts": REQUIRED},
        renamed={"num_experts": ("num_local_experts",)},
        only={"clip_qkv": (None,)},
        build=decoder(
            Style(
                qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="whole",
                layers=sparse_layers(uniform, everywhere),
            ),
            Mixture(experts="num_experts", width="intermediate_size"),
        ),
    ),
    Family(
        model_type="gpt_oss",
        fields={**DECODER, **ROUTED, "partial_rotary_factor": None, "num_key_value_heads": 8, "head_dim": 64,
                "attention_bias": True, "sliding_window": 128, "layer_types": None, "num_local_experts": REQUIRED},
        renamed={"num_local_experts": ("num_experts",)},
        ignored=frozenset({"swiglu_limit", "swiglu_alpha", "experts_per_token", "initial_context_length"}),
        build=decoder(
            Style(
                partial_rotary=1.0, eager_softmax="scores",
                norm="rms_fp32", qkv_bias="attention_bias", out_bias="attention_bias", sinks=True,
                layers=sparse_layers(layers.alternating(2), everywhere), attends=("flash", "eager"),
            ),
            Mixture(
                experts="num_local_experts", width="intermediate_size", router="router", router_bias=True,
                router_linear="never", input_major=True, bias=True, linear_names=(), activation="swiglu_clamped",
            ),
        ),
    ),
    Family(
        model_type="granitemoe",
        fields={**DECODER, **ROUTED, "attention_bias": False, "num_local_experts": REQUIRED},
        build=decoder(
            Style(
                qkv_bias="attention_bias", out_bias="attention_bias", mlp="block_sparse_moe", residual_scaled=True,
                logits_scaled=True, layers=sparse_layers(uniform, everywhere),
            ),
            Mixture(
                experts="num_local_experts", width="intermediate_size", router="router", router_linear="never",
                linear_names=(),
            ),
        ),
    ),
    Family(
        model_type="phimoe",
        fields={**DECODER, **ROUTED, "num_key_value_heads": 8, "sliding_window": None, "attention_bias": False,
                "lm_head_bias": False, "num_local_experts": REQUIRED},
        build=decoder(
            Style(
                norm="layer", norm_bias=True, qkv_bias="attention_bias", out_bias="attention_bias",
                head_bias="lm_head_bias", layers=sparse_layers(layers.windowed, everywhere),
            ),
            Mixture(
                experts="num_local_experts", width="intermediate_size", router="router", router_linear="always",
                linear_names=("w1", "w3", "w2"),
            ),
        ),
        ignored=frozenset({"hidden_dropout", "attention_dropout"}),
    ),
    Family(
        model_type="glm4_moe",
        fields={**DECODER, **ROUTED, "num_key_value_heads": 8, "attention_bias": False, "use_qk_norm": False,
                "partial_rotary_factor": None, "first_k_dense_replace": 1, "n_routed_experts": REQUIRED,
                "n_shared_experts": 1, "moe_intermediate_size": REQUIRED},
        ignored=MTP,
        build=decoder(
            Style(
                qkv_bias="attention_bias", qk_norm="head", qk_norm_if="use_qk_norm", partial_rotary=0.5,
                layers=sparse_layers(uniform, layers.after_first),
            ),
            Mixture(
                experts="n_routed_experts", shared="shared_experts", shared_width=wide_shared, router_linear="never",
                router_fp32=True,
            ),
        ),
    ),
    Family(
        model_type="minimax_m2",
        fields={**DECODER, **ROUTED, "num_key_value_heads": 8, "head_dim": 128, "partial_rotary_factor": None,
                "rotary_dim": None, "num_local_experts": REQUIRED},
        renamed={"num_local_experts": ("num_experts",)},
        only={"use_qk_norm": (True, None), "shared_intermediate_size": (0, None)},
        ignored=MTP | {"attn_type_list", "qk_norm_type", "use_routing_bias", "layernorm_full_attention_beta",
                       "layernorm_linear_attention_beta", "layernorm_mlp_beta", "block_size", "shared_moe_mode"},
        build=decoder(
            Style(qk_norm="whole", partial_rotary=1.0, layers=sparse_layers(uniform, everywhere)),
            Mixture(experts="num_local_experts", width="intermediate_size", linear_names=("w1", "w3", "w2")),
        ),
    ),
    Family(
        model_type="ernie4_5_moe",
        fields={**DECODER, "num_key_value_heads": 4, "use_bias": False, "tie_word_embeddings": True,
                "moe_num_experts": REQUIRED, "moe_k": REQUIRED, "moe_intermediate_size": REQUIRED,
                "moe_num_shared_experts": 2, "moe_layer_start_index": 1, "moe_layer_end_index": -1,
                "moe_layer_interval": 1},
        renamed={"moe_num_experts": ("num_experts",), "moe_k": ("num_experts_per_tok",)},
        ignored=MTP | {"moe_norm_min", "moe_use_aux_free", "moe_capacity", "moe_gate", "moe_layer_interval"},
        build=decoder(
            Style(
                qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias", head_bias="use_bias",
                rope="interleaved", layers=sparse_layers(uniform, layers.by_range),
            ),
            Mixture(
                router_fp32=True,
                experts="moe_num_experts", top_k="moe_k", shared="shared_experts", shared_width=ernie_shared,
                correction="moe_statics.e_score_correction_bias",
            ),
        ),
    ),
    Family(
        model_type="llama4_text",
        fields={**DECODER, **ROUTED, "num_key_value_heads": 8, "head_dim": 128, "attention_bias": False,
                "intermediate_size_mlp": 16384, "num_local_experts": REQUIRED, "interleave_moe_layer_step": 1,
                "moe_layers": None, "no_rope_layers": None, "no_rope_layer_interval": 4, "layer_types": None,
                "attention_chunk_size": 8192, "use_qk_norm": True},
        ignored=frozenset({"for_llm_compressor"}),
        build=decoder(
            Style(
                eager_softmax="native",
                qkv_bias="attention_bias", out_bias="attention_bias", mlp="feed_forward", rope="interleaved",
                qk_norm="head", qk_norm_if="use_qk_norm", qk_norm_weight=False, qk_norm_rotating=True,
                qk_names=("qk_norm", "qk_norm"),
                layers=layers.llama4, attends=("sdpa", "eager"),
            ),
            Mixture(
                computes_all=True,
                experts="num_local_experts", width="intermediate_size", router="router", router_linear="always",
                input_major=True, linear_names=(), shared="shared_expert",
                shared_width=lambda fields: fields.size("intermediate_size"), dense_width="intermediate_size_mlp",
            ),
        ),
    ),
)  # fmt: skip
