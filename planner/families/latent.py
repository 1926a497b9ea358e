"""Multi-head latent attention: DeepSeek-V2 and -V3, Kimi-K2, GLM-4 MoE Lite.

Sources: DeepSeek-V2, arXiv:2405.04434, section 2.1; transformers 5.23, ``models/deepseek_v3/modeling_deepseek_v3.py``.
"""

from planner.families import layers
from planner.families.decoder import decoder
from planner.families.fields import REQUIRED, Family, Fields
from planner.families.layers import sparse_layers
from planner.families.moe import MTP, ROUTED, wide_shared
from planner.families.style import DECODER, Kind, Mixture, Style, uniform
from planner.spec import Attention, Latent, Linear, Norm

LATENT = {
    **DECODER,
    **ROUTED,
    "attention_bias": False,
    "q_lora_rank": 1536,
    "kv_lora_rank": REQUIRED,
    "qk_nope_head_dim": REQUIRED,
    "qk_rope_head_dim": REQUIRED,
    "v_head_dim": REQUIRED,
    "n_routed_experts": REQUIRED,
    "n_shared_experts": 1,
    "moe_intermediate_size": REQUIRED,
}
IGNORED = MTP | {"ep_size", "num_key_value_heads", "head_dim"}


def latent_sizes(fields: Fields) -> Latent:
    """The five sizes that define latent attention."""
    return Latent(
        q_lora_rank=fields.optional_size("q_lora_rank"),
        kv_lora_rank=fields.size("kv_lora_rank"),
        qk_nope_head_dim=fields.size("qk_nope_head_dim"),
        qk_rope_head_dim=fields.size("qk_rope_head_dim"),
        v_head_dim=fields.size("v_head_dim"),
    )


def latent_attention(style: Style, fields: Fields, kind: Kind) -> Attention:
    """Queries and keys read compressed vectors; the rotated part of the key is shared by all heads."""
    sizes, hidden = latent_sizes(fields), fields.size("hidden_size")
    heads, bias, path = fields.size("num_attention_heads"), fields.flag("attention_bias"), style.attention
    head_dim = sizes.qk_nope_head_dim + sizes.qk_rope_head_dim
    rank = sizes.q_lora_rank
    kv_a = Linear(f"{path}.kv_a_proj_with_mqa", hidden, sizes.kv_lora_rank + sizes.qk_rope_head_dim, bias)
    kv_b = Linear(f"{path}.kv_b_proj", sizes.kv_lora_rank, heads * (sizes.qk_nope_head_dim + sizes.v_head_dim))
    query = Linear(f"{path}.q_proj", hidden, heads * head_dim)
    if rank is not None:
        query = Linear(f"{path}.q_a_proj", hidden, rank, bias)
    return Attention(
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=head_dim,
        inputs=(query, kv_a),
        inner=(kv_b,) if rank is None else (Linear(f"{path}.q_b_proj", rank, heads * head_dim), kv_b),
        output=Linear(f"{path}.o_proj", heads * sizes.v_head_dim, hidden, bias),
        q_norm=None if rank is None else Norm(f"{path}.q_a_layernorm", rank),
        k_norm=Norm(f"{path}.kv_a_layernorm", sizes.kv_lora_rank),
        rope=style.rope,
        rope_dim=sizes.qk_rope_head_dim,
        dropout=fields.rate("attention_dropout"),
        latent=sizes,
    )


SHARED = Mixture(
    router_fp32=True,
    experts="n_routed_experts", shared="shared_experts", shared_width=wide_shared, router_linear="never"
)  # fmt: skip

FAMILIES = (
    Family(
        model_type="deepseek_v2",
        fields={**LATENT, "first_k_dense_replace": 0, "mlp_bias": False, "n_shared_experts": 2},
        only={"moe_layer_freq": (1,)},
        ignored=IGNORED,
        build=decoder(
            Style(rope="interleaved", mlp_bias="mlp_bias", layers=sparse_layers(uniform, layers.after_first)),
            SHARED,
            latent_attention,
        ),
    ),
    Family(
        model_type="deepseek_v3",
        fields={**LATENT, "first_k_dense_replace": 3},
        only={"moe_layer_freq": (1,)},
        ignored=IGNORED | {"rope_interleave"},
        build=decoder(
            Style(rope="interleaved", layers=sparse_layers(uniform, layers.after_first)), SHARED, latent_attention
        ),
    ),
    Family(
        model_type="glm4_moe_lite",
        fields={**LATENT, "q_lora_rank": 768, "mlp_layer_types": None},
        only={"moe_layer_freq": (1,), "first_k_dense_replace": (1,), "partial_rotary_factor": (1.0, 1)},
        ignored=IGNORED | {"rope_interleave"},
        build=decoder(
            Style(rope="interleaved", layers=sparse_layers(uniform, layers.by_type)), SHARED, latent_attention
        ),
    ),
)
