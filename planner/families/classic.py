"""Decoders of GPT's shape: layer norms, a feed-forward part without a gate, often one matrix for q, k and v.

Sources: ``transformers/models/<type>/`` of transformers 5.23.
"""

from dataclasses import replace

from planner.families.decoder import decoder, model
from planner.families.fields import REQUIRED, Family, Fields
from planner.families.parts import attention
from planner.families.style import Style
from planner.spec import Linear, ModelSpec, Norm, Placement, Table

COMMON = {
    "hidden_size": REQUIRED,
    "num_hidden_layers": REQUIRED,
    "num_attention_heads": REQUIRED,
    "vocab_size": REQUIRED,
    "max_position_embeddings": None,
    "tie_word_embeddings": True,
    "intermediate_size": None,
    "attention_dropout": 0.0,
    "rope_parameters": None,
    "rope_scaling": None,
}
GPT = {
    "hidden_size": ("n_embd",),
    "num_hidden_layers": ("n_layer",),
    "num_attention_heads": ("n_head",),
    "max_position_embeddings": ("n_positions",),
    "intermediate_size": ("n_inner",),
    "hidden_act": ("activation_function",),
    "attention_dropout": ("attn_pdrop",),
}
DROPOUTS = {"attention_dropout": 0.1, "resid_pdrop": 0.1, "embd_pdrop": 0.1}

LAYER = Style(
    norm="layer", norm_bias=True, norms=("ln_1", "ln_2"), final_norm="ln_f", attention="attn", gated=False,
    embedding="wte", rope="none", qkv_bias=True, out_bias=True, mlp_bias=True,
)  # fmt: skip
GPT2 = LAYER._replace(
    eager_softmax="native", qkv=("c_attn",), out="c_proj", gate_up=("c_fc",), down="c_proj", positions="wpe",
    residual_dropout="resid_pdrop", embedding_dropout="embd_pdrop",
)  # fmt: skip
NEOX = LAYER._replace(
    norms=("input_layernorm", "post_attention_layernorm"), attention="self_attention",
    qkv=("query_key_value",), out="dense", gate_up=("dense_h_to_4h",), down="dense_4h_to_h",
    embedding="word_embeddings", residual_dropout="hidden_dropout",
)  # fmt: skip


def bigcode(fields: Fields) -> ModelSpec:
    """GPT-2 with one key-value head for all queries when ``multi_query`` is on."""
    single = fields.flag("multi_query")
    style = GPT2._replace(eager_softmax="fp32")
    return model(style, fields.with_value("num_key_value_heads", 1) if single else fields, None, attention)


def neox(fields: Fields) -> ModelSpec:
    """GPT-NeoX and Pythia: both parts in parallel, each after its own norm."""
    style = NEOX._replace(
        attention="attention", embedding="embed_in", final_norm="final_layer_norm", rope="half",
        partial_rotary=0.25, qkv_bias="attention_bias", out_bias="attention_bias", embedding_dropout="hidden_dropout",
        placement="parallel_two" if fields.flag("use_parallel_residual") else "pre",
    )  # fmt: skip
    return model(style, fields, None, attention)


def falcon(fields: Fields) -> ModelSpec:
    """Falcon: one or several key-value heads, parallel or serial parts, rotation or ALiBi."""
    new = fields.flag("new_decoder_architecture")
    placement, norms = falcon_norms(fields, new)
    style = NEOX._replace(
        norms=norms, placement=placement, rope="none" if fields.flag("alibi") else "half", subclass=True,
        qkv_bias="bias", out_bias="bias", mlp_bias="bias", activation="hidden_act", eager_softmax="native",
        holds_scores=True, returns_probabilities=True,
    )  # fmt: skip
    if new or fields.flag("multi_query"):
        style = style._replace(fused_kv="expanded" if new else "copy", sdpa_shares=False)
    if not new:  # the field counts only in the new architecture
        fields = fields.with_value("num_key_value_heads", 1 if fields.flag("multi_query") else None)
    return model(style, fields, None, attention)


def falcon_norms(fields: Fields, new: bool) -> tuple[Placement, tuple[str, ...]]:
    """Placement and norms, as ``FalconDecoderLayer`` chooses them."""
    if not fields.flag("parallel_attn"):
        return "pre", ("input_layernorm", "post_attention_layernorm")
    count = fields.optional_size("num_ln_in_parallel_attn") or (2 if new else 1)
    return ("parallel_two", ("ln_attn", "ln_mlp")) if new and count == 2 else ("parallel", ("input_layernorm",))


def opt(fields: Fields) -> ModelSpec:
    """OPT: learned positions with an offset of two; the 350m has post-norms and a narrower vocabulary table."""
    before = fields.flag("do_layer_norm_before")
    style = LAYER._replace(
        norms=("self_attn_layer_norm", "final_layer_norm"), norm_weight="layer_norm_elementwise_affine",
        final_norm="final_layer_norm" if before and not fields.flag("_remove_final_layer_norm") else None,
        placement="pre" if before else "post", attention="self_attn", qkv=("q_proj", "k_proj", "v_proj"),
        out="out_proj", mlp="", gate_up=("fc1",), down="fc2", embedding="embed_tokens",
        positions="embed_positions", position_offset=2, residual_dropout="dropout", qkv_bias="enable_bias",
        out_bias="enable_bias", mlp_bias="enable_bias",
    )  # fmt: skip
    return narrow_vocabulary(model(style, fields, None, attention), fields)


def narrow_vocabulary(spec: ModelSpec, fields: Fields) -> ModelSpec:
    """Add ``project_in`` and ``project_out`` where the vocabulary table is narrower than the model."""
    width = fields.optional_size("word_embed_proj_dim") or spec.hidden_size
    if width == spec.hidden_size:
        return spec
    return replace(
        spec,
        embeddings=(Table("embed_tokens", (spec.vocab_size, width)), *spec.embeddings[1:]),
        lm_head=replace(spec.lm_head, d_in=width),
        extra_linears=(
            Linear("project_in", width, spec.hidden_size),
            Linear("project_out", spec.hidden_size, width),
        ),
    )


def bloom(fields: Fields) -> ModelSpec:
    """BLOOM: ALiBi, a norm right after the embeddings, its own GELU that keeps only its input."""
    style = NEOX._replace(
        activation="gelu_bloom", attends=("eager",), holds_scores=True, returns_probabilities=True
    )  # fmt: skip
    spec = model(style, fields, None, attention)
    return replace(spec, extra_norms=(Norm("word_embeddings_layernorm", spec.hidden_size, "layer", bias=True),))


def mpt(fields: Fields) -> ModelSpec:
    """MPT: ALiBi, no biases. Its ``attn_config`` may ask for what transformers' class does not do."""
    settings = fields.mapping("attn_config")
    wanted = {"alibi": True, "clip_qkv": None, "prefix_lm": False, "qk_ln": False, "attn_pdrop": 0}
    for name, value in wanted.items():
        if name in settings and settings[name] != value:
            raise fields.unsupported(f"attn_config.{name}", f"= {settings[name]!r}")
    style = LAYER._replace(
        norm_bias=False, norms=("norm_1", "norm_2"), final_norm="norm_f", qkv=("Wqkv",), out="out_proj",
        mlp="ffn", gate_up=("up_proj",), down="down_proj", activation="gelu", qkv_bias=False, out_bias=False,
        mlp_bias=False, attends=("eager",), returns_probabilities=True,
    )  # fmt: skip
    return model(style, fields, None, attention)


FAMILIES = (
    Family(
        model_type="gpt2",
        fields={**COMMON, **DROPOUTS, "hidden_act": "gelu_new", "max_position_embeddings": 1024},
        renamed=GPT,
        only={"add_cross_attention": (False, None)},
        build=decoder(GPT2),
    ),
    Family(
        model_type="gpt_bigcode",
        fields={**COMMON, **DROPOUTS, "hidden_act": "gelu_pytorch_tanh", "max_position_embeddings": 1024,
                "num_key_value_heads": None, "multi_query": True},
        renamed=GPT,
        only={"add_cross_attention": (False, None)},
        ignored=frozenset({"attention_softmax_in_fp32", "inference_runner", "max_batch_size", "max_sequence_length",
                           "pad_key_length", "pre_allocate_kv_cache", "validate_runner_input"}),
        build=bigcode,
    ),
    Family(
        model_type="gptj",
        fields={**COMMON, "hidden_act": "gelu_new", "tie_word_embeddings": False, "resid_pdrop": 0.0,
                "embd_pdrop": 0.0, "rotary_dim": 64, "partial_rotary_factor": None},
        renamed=GPT,
        ignored=frozenset({"rotary"}),
        build=decoder(
            LAYER._replace(
                norms=("ln_1",), placement="parallel", qkv=("q_proj", "k_proj", "v_proj"),
                out="out_proj", gate_up=("fc_in",), down="fc_out", head_bias=True, rope="interleaved",
                eager_softmax="upcast", returns_probabilities=True,
                partial_rotary=1.0, qkv_bias=False, out_bias=False, residual_dropout="resid_pdrop",
                embedding_dropout="embd_pdrop", attends=("flash", "eager"),
            )
        ),
    ),
    Family(
        model_type="gpt_neox",
        fields={**COMMON, "intermediate_size": REQUIRED, "hidden_act": "gelu", "tie_word_embeddings": False,
                "attention_bias": True, "hidden_dropout": 0.0, "use_parallel_residual": True,
                "partial_rotary_factor": None},
        renamed={"partial_rotary_factor": ("rotary_pct",)},
        ignored=frozenset({"rotary_emb_base"}),
        build=neox,
    ),
    Family(
        model_type="falcon",
        fields={**COMMON, "num_key_value_heads": None, "hidden_act": "gelu", "alibi": False,
                "new_decoder_architecture": False, "multi_query": True, "parallel_attn": True, "bias": False,
                "hidden_dropout": 0.0, "num_ln_in_parallel_attn": None},
        renamed={"hidden_size": ("n_embed",), "num_hidden_layers": ("n_layer",), "num_attention_heads": ("n_head",),
                 "num_key_value_heads": ("num_kv_heads", "n_head_kv"), "intermediate_size": ("ffn_hidden_size",),
                 "hidden_act": ("activation",)},
        ignored=frozenset({"apply_residual_connection_post_layernorm"}),
        build=falcon,
    ),
    Family(
        model_type="opt",
        fields={**COMMON, "intermediate_size": REQUIRED, "max_position_embeddings": 2048, "hidden_act": "relu",
                "do_layer_norm_before": True, "_remove_final_layer_norm": False, "word_embed_proj_dim": None,
                "dropout": 0.1, "enable_bias": True, "layer_norm_elementwise_affine": True},
        renamed={"intermediate_size": ("ffn_dim",), "hidden_act": ("activation_function",)},
        ignored=frozenset({"layerdrop", "activation_dropout"}),
        build=opt,
    ),
    Family(
        model_type="bloom",
        fields={**COMMON, "hidden_dropout": 0.0},
        renamed={"hidden_size": ("n_embed",), "num_hidden_layers": ("n_layer",), "num_attention_heads": ("n_head",),
                 "max_position_embeddings": ("seq_length",)},
        only={"apply_residual_connection_post_layernorm": (False, None)},
        ignored=frozenset({"attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion",
                           "offset_alibi", "skip_bias_add", "skip_bias_add_qkv", "hidden_dropout_prob", "n_inner"}),
        build=bloom,
    ),
    Family(
        model_type="mpt",
        fields={**COMMON, "attn_config": None},
        renamed={"hidden_size": ("d_model",), "num_hidden_layers": ("n_layers",), "num_attention_heads": ("n_heads",),
                 "max_position_embeddings": ("max_seq_len",)},
        only={"expansion_ratio": (4,), "no_bias": (True,)},
        ignored=frozenset({"learned_pos_emb", "embedding_fraction", "init_config", "ffn_config", "emb_pdrop",
                           "resid_pdrop", "norm_type"}),
        build=mpt,
    ),
)  # fmt: skip
