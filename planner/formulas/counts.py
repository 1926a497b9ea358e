"""Parameter counts of single parts: ints in, ints out. ``params`` puts them together for a whole model.

Symbols: ``h`` hidden_size, ``f`` intermediate_size, ``n`` num_attention_heads, ``k`` num_key_value_heads,
``d`` head_dim, ``V`` vocabulary, ``E`` experts, ``r`` LoRA rank.
"""


def linear_params(*, d_in: int, d_out: int, bias: bool = False) -> int:
    """Entries of one matrix and its bias.

    Shapes:    weight (d_out, d_in)    bias (d_out)
    Formula:   d_in*d_out + d_out where there is a bias
    Source:    torch.nn.Linear; transformers' Conv1D holds the transpose, of the same size
    Valid:     always
    Excludes:  adapters (see ``lora_linear_params``)

    >>> linear_params(d_in=4096, d_out=1024), linear_params(d_in=4, d_out=3, bias=True)
    (4194304, 15)
    """
    return d_in * d_out + (d_out if bias else 0)


def attention_params(*, h: int, n: int, k: int, d: int, qkv_bias: bool = False, out_bias: bool = False) -> int:
    """Entries of the four projections of multi-head, grouped-query (k < n) or multi-query (k = 1) attention.

    Shapes:    q (n*d, h)    k, v (k*d, h)    out (h, n*d)
    Formula:   h*d*(n + 2k) + n*d*h, and d*(n + 2k), h for the biases
    Source:    Ainslie et al. 2023, arXiv:2305.13245, section 2.2; transformers' LlamaAttention
    Valid:     separate or fused projections alike
    Excludes:  norms on queries and keys; latent attention (see ``latent_attention_params``)

    >>> attention_params(h=4096, n=32, k=8, d=128)
    41943040
    """
    qkv = d * (n + 2 * k)
    out = n * d
    return qkv * h + out * h + (qkv if qkv_bias else 0) + (h if out_bias else 0)


def latent_attention_params(
    *, h: int, n: int, q_rank: int | None, kv_rank: int, d_nope: int, d_rope: int, d_value: int
) -> int:
    """Entries of the projections of multi-head latent attention, with the norms of the compressed vectors.

    Shapes:    q_a (q_rank, h)    q_b (n*(d_nope+d_rope), q_rank)    kv_a (kv_rank+d_rope, h)
               kv_b (n*(d_nope+d_value), kv_rank)    out (h, n*d_value)    norms (q_rank), (kv_rank)
    Formula:   the sum of the shapes; without q_rank one matrix (n*(d_nope+d_rope), h) in place of q_a, q_b
    Source:    DeepSeek-V2, arXiv:2405.04434, section 2.1.2 and appendix C
    Valid:     no biases
    Excludes:  the block's own norms

    >>> latent_attention_params(h=7168, n=128, q_rank=1536, kv_rank=512, d_nope=128, d_rope=64, d_value=128)
    187107328
    """
    d = d_nope + d_rope
    query = n * d * h if q_rank is None else q_rank * h + n * d * q_rank + q_rank
    key_value = (kv_rank + d_rope) * h + n * (d_nope + d_value) * kv_rank + kv_rank
    out = n * d_value * h
    return query + key_value + out


def mlp_params(*, h: int, f: int, gated: bool = True, bias: bool = False) -> int:
    """Entries of a feed-forward part: gate, up and down, or up and down.

    Shapes:    gate, up (f, h)    down (h, f)
    Formula:   3*h*f gated, 2*h*f classic; biases f per input matrix and h
    Source:    Shazeer 2020, arXiv:2002.05202, equation 5
    Valid:     separate or fused gate and up alike
    Excludes:  parameters of the activation (xIELU has two)

    >>> mlp_params(h=4096, f=14336), mlp_params(h=768, f=3072, gated=False, bias=True)
    (176160768, 4722432)
    """
    inputs = 2 if gated else 1
    return (inputs + 1) * h * f + (inputs * f + h if bias else 0)


def experts_params(*, h: int, f: int, E: int) -> int:  # noqa: N803 - the letter of the legend
    """Entries of a router and E gated experts.

    Shapes:    router (E, h)    gate_up (E, 2f, h)    down (E, h, f)
    Formula:   E*h + 3*E*h*f
    Source:    Jiang et al. 2024, arXiv:2401.04088, section 2.1; transformers 5 MixtralExperts
    Valid:     no biases
    Excludes:  shared experts, which are an ordinary feed-forward part; buffers of the router

    >>> experts_params(h=4096, f=14336, E=8)
    1409318912
    """
    return E * h + 3 * E * h * f


def lora_linear_params(*, d_in: int, d_out: int, r: int) -> int:
    """Trainable entries of a low-rank adapter on one matrix.

    Shapes:    A (r, d_in)    B (d_out, r)
    Formula:   r*(d_in + d_out)
    Source:    Hu et al. 2021, arXiv:2106.09685, section 4.1
    Valid:     plain LoRA; the base's bias stays frozen
    Excludes:  DoRA's magnitudes, trained biases

    >>> lora_linear_params(d_in=4096, d_out=1024, r=16)
    81920
    """
    return r * (d_in + d_out)


def lora_experts_params(*, h: int, f: int, E: int, r: int) -> int:  # noqa: N803
    """Trainable entries of the adapters that PEFT puts on stacked expert tensors.

    Shapes:    gate_up: A (2r*E, h), B (2f, 2r*E)    down: A (r*E, f), B (h, r*E)
    Formula:   2*r*E*(h + 2f) + r*E*(f + h)
    Source:    PEFT 0.21 peft/tuners/lora/layer.py, ParamWrapper.update_layer; the doubled rank of the fused tensor:
               peft/utils/transformers_weight_conversion.py, _convert_peft_config_moe
    Valid:     transformers 5 with PEFT's mapping of gate, up and down to parameters
    Excludes:  the adapter on the router (see ``lora_linear_params``)

    >>> lora_experts_params(h=4096, f=14336, E=8, r=1)
    671744
    """
    gate_up = 2 * r * E * (h + 2 * f)
    down = r * E * (f + h)
    return gate_up + down
