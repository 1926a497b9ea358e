"""Dense decoders of Llama's shape. Sources: ``transformers/models/<type>/`` of transformers 5.23."""

from planner.families import layers
from planner.families.decoder import decoder
from planner.families.fields import Family
from planner.families.style import DECODER, Style

BIAS = {"attention_bias": False, "mlp_bias": False}
WINDOW = {"sliding_window": None}
QWEN = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28, "layer_types": None}
PARTIAL = {"partial_rotary_factor": None}
CAUSAL = {"use_bidirectional_attention": (None, False)}
NO_CLIP = {"clip_qkv": (None,)}

GEMMA = {
    **DECODER,
    "tie_word_embeddings": True,
    "head_dim": 256,
    "attention_bias": False,
    "hidden_activation": "gelu_pytorch_tanh",
}
GEMMA_SANDWICH = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")

LLAMA = Style(qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias")
OLMO_POST = Style(
    norm="rms_fp32", norms=POST_NORMS, placement="post", qk_norm="whole",
    qkv_bias="attention_bias", out_bias="attention_bias",
)  # fmt: skip

FAMILIES = (
    Family(model_type="llama", fields={**DECODER, **BIAS}, build=decoder(LLAMA)),
    Family(
        model_type="mistral",
        fields={**DECODER, "num_key_value_heads": 8, "sliding_window": 4096},
        build=decoder(Style(layers=layers.windowed)),
    ),
    Family(
        model_type="ministral3",
        fields={**DECODER, **WINDOW, "num_key_value_heads": 8, "head_dim": 128},
        build=decoder(Style(layers=layers.windowed)),
    ),
    Family(
        model_type="qwen2",
        fields={**DECODER, **QWEN, "num_key_value_heads": 32},
        build=decoder(Style(qkv_bias=True, layers=layers.late_windows)),
    ),
    Family(
        model_type="qwen3",
        fields={**DECODER, **QWEN, "num_key_value_heads": 32, "head_dim": 128, "attention_bias": False},
        build=decoder(
            Style(qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="head", layers=layers.late_windows)
        ),
    ),
    Family(
        model_type="gemma",
        fields={**GEMMA, "num_key_value_heads": 16, "hidden_act": "gelu_pytorch_tanh"},
        only=CAUSAL,
        build=decoder(
            Style(norm="rms_fp32", qkv_bias="attention_bias", out_bias="attention_bias", gelu_means_tanh=True)
        ),
    ),
    Family(
        model_type="gemma2",
        fields={
            **GEMMA,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "sliding_window": 4096,
            "layer_types": None,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        only=CAUSAL,
        build=decoder(
            Style(
                norm="rms_fp32", norms=GEMMA_SANDWICH, placement="sandwich", activation="hidden_activation",
                qkv_bias="attention_bias", out_bias="attention_bias", softcap="attn_logit_softcapping",
                logits_softcap="final_logit_softcapping", layers=layers.alternating(2), attends=("flash", "eager"),
            )
        ),
    ),
    Family(
        model_type="gemma3_text",
        fields={
            **GEMMA,
            "vocab_size": 262208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "sliding_window": 4096,
            "sliding_window_pattern": 6,
            "layer_types": None,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        },
        renamed={"sliding_window_pattern": ("_sliding_window_pattern",)},
        only=CAUSAL,
        build=decoder(
            Style(
                norm="rms_fp32", norms=GEMMA_SANDWICH, placement="sandwich", activation="hidden_activation",
                qkv_bias="attention_bias", out_bias="attention_bias", softcap="attn_logit_softcapping",
                logits_softcap="final_logit_softcapping", qk_norm="head",
                layers=layers.alternating("sliding_window_pattern"),
            )
        ),
    ),
    Family(
        model_type="phi",
        fields={**DECODER, **PARTIAL, "hidden_act": "gelu_new", "qk_layernorm": False, "resid_pdrop": 0.0,
                "embd_pdrop": 0.0},
        build=decoder(
            Style(
                norm="layer", norm_bias=True, norms=("input_layernorm",), final_norm="final_layernorm",
                placement="parallel", out="dense", qkv_bias=True, out_bias=True, gate_up=("fc1",), down="fc2",
                gated=False, mlp_bias=True, head_bias=True, partial_rotary=0.5, qk_norm="head",
                qk_norm_if="qk_layernorm", qk_norm_bias=True, qk_names=("q_layernorm", "k_layernorm"),
                residual_dropout="resid_pdrop", embedding_dropout="embd_pdrop",
            )
        ),
    ),
    Family(
        model_type="phi3",
        fields={**DECODER, **PARTIAL, **WINDOW, "resid_pdrop": 0.0},
        ignored=frozenset({"embd_pdrop"}),
        build=decoder(
            Style(
                qkv=("qkv_proj",), gate_up=("gate_up_proj",), partial_rotary=1.0, residual_dropout="resid_pdrop",
                layers=layers.windowed,
            )
        ),
    ),
    Family(
        model_type="smollm3",
        fields={**DECODER, **BIAS, "num_key_value_heads": 4, "tie_word_embeddings": True,
                "use_sliding_window": False, "sliding_window": None, "layer_types": None,
                "no_rope_layer_interval": 4, "no_rope_layers": None},
        ignored=frozenset({"max_window_layers"}),
        build=decoder(
            Style(
                qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias", layers=layers.smollm3
            )
        ),
    ),
    Family(
        model_type="olmo",
        fields={**DECODER, "attention_bias": False},
        only=NO_CLIP,
        build=decoder(
            Style(norm="layer_fp32", norm_weight=False, qkv_bias="attention_bias", out_bias="attention_bias")
        ),
    ),
    Family(model_type="olmo2", fields={**DECODER, "attention_bias": False}, build=decoder(OLMO_POST)),
    Family(
        model_type="olmo3",
        fields={**DECODER, "attention_bias": False, "sliding_window": 4096, "layer_types": None},
        build=decoder(
            Style(
                norm="rms_fp32", norms=POST_NORMS, placement="post", qk_norm="whole",
                qkv_bias="attention_bias", out_bias="attention_bias", layers=layers.alternating(4),
            )
        ),
    ),
    Family(
        model_type="glm",
        fields={**DECODER, **PARTIAL, "num_key_value_heads": 2, "head_dim": 128, "attention_bias": True},
        build=decoder(
            Style(qkv_bias="attention_bias", gate_up=("gate_up_proj",), rope="interleaved", partial_rotary=0.5)
        ),
    ),
    Family(
        model_type="glm4",
        fields={**DECODER, **PARTIAL, "num_key_value_heads": 2, "head_dim": 128, "attention_bias": True},
        build=decoder(
            Style(
                qkv_bias="attention_bias", gate_up=("gate_up_proj",), rope="interleaved", partial_rotary=0.5,
                norms=("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm",
                       "post_mlp_layernorm"),
                placement="sandwich",
            )
        ),
    ),
    Family(
        model_type="starcoder2",
        fields={**DECODER, **WINDOW, "num_key_value_heads": 2, "hidden_act": "gelu_pytorch_tanh", "use_bias": True,
                "tie_word_embeddings": True, "residual_dropout": 0.0, "embedding_dropout": 0.0},
        build=decoder(
            Style(
                norm="layer", norm_bias=True, qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias",
                gate_up=("c_fc",), down="c_proj", gated=False, residual_dropout="residual_dropout",
                embedding_dropout="embedding_dropout", layers=layers.windowed,
            )
        ),
        ignored=frozenset({"mlp_type", "norm_type"}),
    ),
    Family(
        model_type="granite",
        fields={**DECODER, **BIAS},
        build=decoder(
            Style(
                qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias", residual_scaled=True,
                logits_scaled=True,
            )
        ),
    ),
    Family(
        model_type="cohere",
        fields={**DECODER, "tie_word_embeddings": True, "attention_bias": False, "use_qk_norm": False},
        build=decoder(
            Style(
                norm="layer_fp32", norms=("input_layernorm",), placement="parallel", rope="interleaved",
                qkv_bias="attention_bias", out_bias="attention_bias", qk_norm="whole", qk_norm_if="use_qk_norm",
                logits_scaled=True,
            )
        ),
    ),
    Family(
        model_type="cohere2",
        fields={**DECODER, "tie_word_embeddings": True, "attention_bias": False, "sliding_window": 4096,
                "sliding_window_pattern": 4, "layer_types": None},
        renamed={"sliding_window_pattern": ("_sliding_window_pattern",)},
        ignored=frozenset({"order_of_interleaved_layers", "rotary_pct", "use_embedding_sharing",
                           "use_gated_activation", "use_parallel_block", "use_parallel_embedding"}),
        build=decoder(
            Style(
                norm="layer_fp32", norms=("input_layernorm",), placement="parallel", rope="interleaved",
                qkv_bias="attention_bias", out_bias="attention_bias", logits_scaled=True, layers=layers.cohere2,
            )
        ),
    ),
    Family(
        model_type="stablelm",
        fields={**DECODER, **PARTIAL, "num_key_value_heads": 32, "use_qkv_bias": False, "qk_layernorm": False,
                "use_parallel_residual": False, "hidden_dropout": 0.0},
        renamed={"partial_rotary_factor": ("rope_pct",)},
        build=decoder(
            Style(
                norm="layer", norm_bias=True, qkv_bias="use_qkv_bias", partial_rotary=0.25, qk_norm="whole",
                qk_norm_if="qk_layernorm", qk_names=("q_layernorm", "k_layernorm"), parallel="use_parallel_residual",
                residual_dropout="hidden_dropout",
            )
        ),
    ),
    Family(
        model_type="seed_oss",
        fields={**DECODER, "num_key_value_heads": 8, "head_dim": 128, "attention_bias": True,
                "attention_out_bias": False, "mlp_bias": False, "attention_dropout": 0.1, "residual_dropout": 0.1},
        build=decoder(
            Style(
                qkv_bias="attention_bias", out_bias="attention_out_bias", mlp_bias="mlp_bias",
                residual_dropout="residual_dropout",
            )
        ),
    ),
    Family(
        model_type="apertus",
        fields={**DECODER, "hidden_act": "xielu", "attention_bias": False},
        ignored=frozenset({"post_norm", "qk_norm", "mlp_bias"}),
        build=decoder(
            Style(
                norms=("attention_layernorm", "feedforward_layernorm"), qkv_bias="attention_bias",
                out_bias="attention_bias", qk_norm="head", gate_up=("up_proj",), gated=False,
            )
        ),
    ),
    Family(
        model_type="arcee",
        fields={**DECODER, **BIAS, "hidden_act": "relu2"},
        build=decoder(
            Style(
                qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias", gate_up=("up_proj",),
                gated=False,
            )
        ),
    ),
    Family(
        model_type="exaone4",
        fields={**DECODER, "num_key_value_heads": 32, "sliding_window": 4096, "sliding_window_pattern": 4,
                "layer_types": None},
        build=decoder(Style(norms=POST_NORMS, placement="post", qk_norm="head", layers=layers.exaone4)),
    ),
    Family(
        model_type="ernie4_5",
        fields={**DECODER, "num_key_value_heads": 2, "head_dim": 128, "use_bias": False, "tie_word_embeddings": True},
        build=decoder(Style(qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias", rope="interleaved")),
    ),
)  # fmt: skip
