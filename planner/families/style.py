"""What tells one decoder family from another, as data: ``Style`` for every model, ``Mixture`` for experts.

A ``bool | str`` is a constant of the family or the name of the config field that decides.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from planner.families.fields import REQUIRED, Fields
from planner.spec import Attend, NormKind, Placement, Rope

DECODER: Mapping[str, object] = {
    "hidden_size": REQUIRED,
    "intermediate_size": REQUIRED,
    "num_hidden_layers": REQUIRED,
    "num_attention_heads": REQUIRED,
    "num_key_value_heads": None,
    "head_dim": None,
    "vocab_size": REQUIRED,
    "max_position_embeddings": None,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "rope_parameters": None,
    "rope_scaling": None,
}
"""Fields of a Llama-shaped decoder. transformers has defaults for the sizes too, but a file without them is broken."""


class Kind(NamedTuple):
    """What distinguishes one layer from the others of its model."""

    window: int | None = None
    rotates: bool = True
    sparse: bool = False


LayerRule = Callable[[Fields, int], tuple[Kind, ...]]


def uniform(fields: Fields, layers: int) -> tuple[Kind, ...]:
    """Every layer attends to everything and rotates."""
    return (Kind(),) * layers


class Style(NamedTuple):
    """A decoder family: names of its modules as transformers spells them, and what each part does."""

    norm: NormKind = "rms"
    norm_weight: bool | str = True
    norm_bias: bool = False
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    final_norm: str | None = "norm"
    placement: Placement = "pre"
    parallel: str | None = None
    """Field that makes both parts read one norm (StableLM)."""
    attention: str = "self_attn"
    qkv: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    out: str = "o_proj"
    qkv_bias: bool | str = False
    out_bias: bool | str = False
    qk_norm: Literal["head", "whole"] | None = None
    qk_norm_if: bool | str = True
    qk_norm_kind: NormKind | None = None
    qk_norm_weight: bool = True
    qk_norm_bias: bool = False
    qk_norm_rotating: bool = False
    """Only layers that rotate have these norms (Llama 4)."""
    qk_names: tuple[str, str] = ("q_norm", "k_norm")
    rope: Rope = "half"
    partial_rotary: float | None = None
    """Default share of rotated channels, for families that rotate only a part."""
    softcap: str | None = None
    sinks: bool = False
    fused_kv: Literal["view", "copy", "expanded"] = "view"
    sdpa_shares: bool = True
    eager_softmax: Literal["fp32", "native", "upcast", "scores"] = "fp32"
    holds_scores: bool = False
    returns_probabilities: bool = False
    mlp: str = "mlp"
    gate_up: tuple[str, ...] = ("gate_proj", "up_proj")
    down: str = "down_proj"
    gated: bool = True
    mlp_bias: bool | str = False
    activation: str = "hidden_act"
    gelu_means_tanh: bool = False
    embedding: str = "embed_tokens"
    positions: str | None = None
    position_offset: int = 0
    head_bias: bool | str = False
    subclass: bool = False
    residual_dropout: str | None = None
    embedding_dropout: str | None = None
    residual_scaled: bool = False
    logits_scaled: bool = False
    logits_softcap: str | None = None
    attends: tuple[Attend, ...] = ("flash", "sdpa", "eager")
    layers: LayerRule = uniform


class Mixture(NamedTuple):
    """Experts of a family: which fields size them and how their tensors are called and laid out."""

    experts: str
    top_k: str = "num_experts_per_tok"
    width: str = "moe_intermediate_size"
    router: str = "gate"
    router_bias: bool = False
    router_linear: Literal["never", "separate", "always"] = "separate"
    router_fp32: bool = False
    computes_all: bool = False
    input_major: bool = False
    """Expert tensors are (experts, in, out), as for ``torch.bmm``, instead of (experts, out, in)."""
    bias: bool = False
    linear_names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    activation: str | None = None
    shared: str | None = None
    shared_width: Callable[[Fields], int | None] = lambda fields: None
    shared_gate: str | None = None
    correction: str | None = None
    """A score-correction bias that is a parameter (ERNIE); elsewhere it is a buffer and no parameter."""
    dense_width: str = "intermediate_size"
